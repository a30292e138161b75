"""The code location that Dagster loads.

``RETUNE_PROFILE`` names the profile (default: the project's ``retune.yaml``, else ``laptop``) and ``RETUNE_OVERRIDES``
holds ``key=value`` lines; ``retune ui`` sets both. Heavy libraries are imported by the steps that use them, never here.
"""

from __future__ import annotations

import os
from pathlib import Path

import dagster as dg

from assets_pkg.build import SCHEDULES, SENSORS, build_definitions, configured_benchmarks
from assets_pkg.config.env_file import load_env_file
from assets_pkg.config.profile import Profile
from assets_pkg.config.profile_files import load_profile
from assets_pkg.config.project import enter_project, profile_name
from assets_pkg.orchestration.executor import step_processes
from resources.http_client import bypass_proxies_on_this_machine
from resources.machine.imports import spare_imports


def profile_from_environment() -> Profile:
    """The profile that the environment names."""
    overrides = os.environ.get("RETUNE_OVERRIDES", "").splitlines()
    return load_profile(profile_name(), [line for line in overrides if line])


spare_imports()
enter_project()
load_env_file(Path.cwd())
bypass_proxies_on_this_machine()
_profile = profile_from_environment()
defs = dg.Definitions.merge(
    build_definitions(_profile, include=(SENSORS, SCHEDULES, *configured_benchmarks(_profile))),
    dg.Definitions(executor=step_processes),
)
