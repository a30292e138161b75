"""What decides how a server answers besides its key: stored with its state, so that a difference is found by name."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from assets_pkg.config.sections.deploy import DeploySettings
from assets_pkg.deploy.server_client import TLS_VARIABLES
from storage.digests import digest_text

Configuration = Mapping[str, str]
"""The settings and variables by name, with their values; those of variables as digests."""

NAMES_VARIABLE = "NIM_SERVED_MODEL_NAME"
LIMIT_VARIABLE = "NIM_MAX_CLIENT_BATCH_SIZE"
LOG_VARIABLE = "RETUNE_LOG_FILE"
COMMON = ("backend", "host", "host_port", "served_model_name")
OF_RETUNE = ("max_client_batch_size",)
OF_CONTAINERS = ("server", "container_name", "gpus", "shm_size")

SET_BY_DEPLOY = frozenset({"model_dir", "port", "max_client_batch_size", "log_file"})
"""Settings of the server whose variables a deployment overrides."""

VLLM_PREFIX, VLLM_KEY = "VLLM_", "VLLM_API_KEY"
EXPORT = "the exported model"
MODEL = "the model"


def configuration(settings: DeploySettings, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """What decides how the server of these settings answers, besides its model.

    The key is not part of it: a running server is asked what it demands.
    """
    names = [*COMMON]
    if settings.backend == "docker":
        names += [*OF_CONTAINERS, "server_image" if settings.server == "retune" else "nim_image"]
        names += OF_RETUNE if settings.server == "retune" else ("use_onnx",)
    elif settings.backend == "process":
        names += OF_RETUNE
    chosen = {f"deploy.{name}": str(getattr(settings, name)) for name in names}
    variables = {
        name: environment[name] for name in _variables(settings, environment) if environment.get(name)
    }
    return chosen | {name: digest_text(value) for name, value in sorted(variables.items())}


def with_model(settings: DeploySettings, folder: Path, digest: str) -> dict[str, str]:
    """`configuration` with the model that is served: its digest, and the folder, which is named by its content."""
    return {**configuration(settings), MODEL: digest, EXPORT: str(folder.resolve())}


def differences(running: Configuration, wanted: Configuration) -> list[str]:
    """The names of what is set differently; of the running server's model only if ``wanted`` names one."""
    parts = {*running, *wanted} - ({MODEL, EXPORT} - {*wanted})
    return sorted(name for name in parts if running.get(name) != wanted.get(name))


def served_names(settings: DeploySettings, environment: Mapping[str, str] = os.environ) -> str:
    """The names that a server answers to, the setting's first, then those of the environment."""
    others = environment.get(NAMES_VARIABLE, "").split(",")
    names = [settings.served_model_name, *(name.strip() for name in others)]
    return ",".join(dict.fromkeys(filter(None, names)))


def drain_seconds(environment: Mapping[str, str] = os.environ) -> float:
    """How long a server with these variables answers the requests that it has accepted after SIGTERM."""
    from assets_pkg.nim.settings import DrainSettings, SettingsError, front_settings_from

    try:
        found = front_settings_from(DrainSettings, environment)
    except SettingsError:  # the server says it, and does not start
        found = DrainSettings()
    return found.drain_grace_s + found.request_timeout_s


def _variables(settings: DeploySettings, environment: Mapping[str, str]) -> set[str]:
    """The variables that the server reads in this environment."""
    from assets_pkg.nim.settings import ENVIRONMENT

    if settings.backend == "vllm":
        return {name for name in environment if name.startswith(VLLM_PREFIX) and name != VLLM_KEY}
    if settings.backend == "docker":
        return {NAMES_VARIABLE, *TLS_VARIABLES}
    ignored = {*SET_BY_DEPLOY, "api_key"}
    return {
        variable
        for setting, variables in ENVIRONMENT.items()
        if setting not in ignored
        for variable in variables
    }
