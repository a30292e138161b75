"""What ``model.trust_remote_code`` may be combined with."""

from __future__ import annotations

import re

from assets_pkg.config.base import ModelSettings
from assets_pkg.config.sections.deploy import DeploySettings
from resources.models.naming import ModelNameError, find_named

COMMIT = re.compile(r"[0-9a-f]{40}")


def remote_code_problem(model: ModelSettings, deploy: DeploySettings) -> str | None:
    """Why a model's own code is not run with these settings; None where it is, or where nobody asks for it.

    Code of the hub can be replaced by its owner at any time: what runs is the code of a commit, that somebody has read.
    """
    if not model.trust_remote_code:
        return None
    if not deploy.use_onnx or deploy.backend == "vllm":
        return (
            "model.trust_remote_code = true: a server does not run a model's own code: serve its ONNX export, which "
            "has none (deploy.use_onnx=true, and not deploy.backend=vllm)"
        )
    try:
        named = find_named(model.base_model, model.revision)
    except ModelNameError:
        return None  # the base model's stage reports it
    if named.folder is not None or COMMIT.fullmatch(named.revision or ""):
        return None
    return (
        f"model.trust_remote_code = true: it runs Python code of {model.base_model} with your rights: read it, and "
        "set model.revision to its commit (40 digits), so that no other code is run"
    )
