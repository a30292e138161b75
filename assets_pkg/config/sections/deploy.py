"""The settings of stage 5: the embedding server."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from assets_pkg.config.base import ProfileOnly, RuntimeOnly, Settings


def _text(value: object) -> object:
    """A count of GPUs as the text that Docker takes."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _short_unit(value: object) -> object:
    """``16gb`` as ``16g``, a number of bytes as a text."""
    text = _text(value)
    return re.sub(r"(?i)(?<=[0-9])([kmg])b$", r"\1", text).lower() if isinstance(text, str) else text


Gpus = Annotated[str, BeforeValidator(_text), Field(pattern=r"^(all|[1-9][0-9]*|device=[\w:,-]+)$")]
MemorySize = Annotated[str, BeforeValidator(_short_unit), Field(pattern=r"^[0-9]+[bkmg]?$")]
Port = Annotated[int, Field(ge=1, le=65535)]


class DeploySettings(Settings):
    """Stage 5. ``model_dir``: a model folder of the user's own, as ``export.model_path``. Without ``detach`` the
    command stays until it is interrupted, and then stops the server."""

    model_dir: Annotated[str | None, RuntimeOnly, ProfileOnly]
    detach: Annotated[bool, RuntimeOnly, ProfileOnly]

    backend: Literal["process", "docker", "vllm"]
    served_model_name: str
    server: Literal["retune", "nim"]
    server_image: str
    nim_image: str
    use_onnx: bool
    gpus: Gpus | None
    shm_size: Annotated[MemorySize | None, RuntimeOnly]
    container_name: Annotated[str, RuntimeOnly]
    host: str
    host_port: Port
    startup_timeout_s: Annotated[float, Field(gt=0), RuntimeOnly]
    max_client_batch_size: Annotated[int, Field(ge=1), RuntimeOnly]
    verify_fingerprint: Annotated[bool, RuntimeOnly]
