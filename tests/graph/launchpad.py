"""Dagster's Launchpad without a browser: the GraphQL requests of its UI, answered by its schema in this process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import yaml
from dagster._core.remote_origin import InProcessCodeLocationOrigin
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import WorkspaceLoadTarget

IN_THIS_PROCESS = {
    "run_launcher": {
        "module": "dagster._core.launcher.sync_in_memory_run_launcher",
        "class": "SyncInMemoryRunLauncher",
    },
    "run_coordinator": {"module": "dagster._core.run_coordinator", "class": "DefaultRunCoordinator"},
    "telemetry": {"enabled": False},
}
"""Settings of the instance."""

LOCATION = "own"
OFFERED = """query ($selector: PipelineSelector!) {
  runConfigSchemaOrError(selector: $selector) {
    ... on RunConfigSchema {
      rootDefaultYaml
      allConfigTypes { ... on CompositeConfigType { fields { name description } } }
    }
  }
}"""
LAUNCH = """mutation ($executionParams: ExecutionParams!) {
  launchPipelineExecution(executionParams: $executionParams) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
    ... on RunConfigValidationInvalid { errors { message } }
    ... on PythonError { message }
  }
}"""


@dataclass(frozen=True)
class _Target(WorkspaceLoadTarget):
    module: Path

    def create_origins(self) -> Sequence[InProcessCodeLocationOrigin]:
        code = LoadableTargetOrigin(python_file=str(self.module), working_directory=str(self.module.parent))
        return [InProcessCodeLocationOrigin(code, location_name=LOCATION)]


class Launchpad:
    """The Launchpad of one code location's assets."""

    def __init__(self, context: WorkspaceProcessContext):
        self._context = context

    def ask(self, query: str, **variables: Any) -> Any:
        from dagster_graphql.test.utils import execute_dagster_graphql

        result = execute_dagster_graphql(self._context.create_request_context(), query, variables=variables)
        assert not result.errors, result.errors
        (answer,) = result.data.values()
        return answer

    def config(self, *assets: dg.AssetKey) -> Any:
        """The run config that it is filled with."""
        return yaml.safe_load(self.ask(OFFERED, selector=_selector(assets))["rootDefaultYaml"])

    def described(self, *assets: dg.AssetKey) -> dict[str, str]:
        """What it says of each field, by the field's name."""
        types = self.ask(OFFERED, selector=_selector(assets))["allConfigTypes"]
        fields = (field for each in types for field in each.get("fields", ()))
        return {field["name"]: field["description"] for field in fields if field["description"]}

    def launch(self, config: Any, *assets: dg.AssetKey) -> Any:
        """Launch a run, which has ended when this returns; the answer of the webserver."""
        config = {**config, "execution": {"config": {"in_process": {}}}}
        given = {"selector": _selector(assets), "runConfigData": yaml.safe_dump(config), "mode": "default"}
        return self.ask(LAUNCH, executionParams=given)


def _selector(assets: Sequence[dg.AssetKey]) -> dict[str, Any]:
    return {
        "repositoryLocationName": LOCATION,
        "repositoryName": "__repository__",
        "pipelineName": "__ASSET_JOB",
        "assetSelection": [{"path": list(key.path)} for key in assets],
        "assetCheckSelection": [],
    }


@contextmanager
def open_launchpad(instance: dg.DagsterInstance, module: Path) -> Iterator[Launchpad]:
    """The Launchpad of the assets in the Python file ``module``."""
    with WorkspaceProcessContext(instance, _Target(module)) as context:
        yield Launchpad(context)
