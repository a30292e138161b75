"""The place in the UI of runs that the command makes: under the job of the code location, and on its timeline.

Dagster records where a run belongs only for those that its own server starts. What is used for that is no public API;
``tests/test_stale_status.py`` lists the modules that use such, and ``tests/test_run_origin.py`` checks it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import dagster as dg
from dagster._core.definitions.repository_definition import SINGLETON_REPOSITORY_NAME
from dagster._core.remote_origin import (
    ManagedGrpcPythonEnvCodeLocationOrigin,
    RemoteJobOrigin,
    RemoteRepositoryOrigin,
)
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin

from assets_pkg.orchestration.instance import CODE_LOCATION, DEFINITIONS_MODULE


@contextmanager
def as_runs_of_the_code_location(instance: dg.DagsterInstance, job: str) -> Iterator[None]:
    """Runs of ``job`` that are created within belong to Retune's code location."""
    created: Any = instance.create_run_for_job
    module = LoadableTargetOrigin(module_name=DEFINITIONS_MODULE)
    location = ManagedGrpcPythonEnvCodeLocationOrigin(module, CODE_LOCATION)
    origin = RemoteJobOrigin(RemoteRepositoryOrigin(location, SINGLETON_REPOSITORY_NAME), job)
    instance.create_run_for_job = partial(created, remote_job_origin=origin)
    try:
        yield
    finally:
        instance.create_run_for_job = created
