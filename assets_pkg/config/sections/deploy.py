"""The settings of stage 5: the embedding server."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from assets_pkg.config.base import RuntimeOnly, Settings

Port = Annotated[int, Field(ge=1, le=65535)]


class DeploySettings(Settings):
    """Stage 5."""

    backend: Literal["process", "docker", "vllm"]
    served_model_name: str
    server: Literal["retune", "nim"]
    server_image: str
    nim_image: str
    use_onnx: bool
    gpus: Annotated[str, Field(pattern=r"^(all|[1-9][0-9]*|device=[\w:,-]+)$")] | None
    shm_size: Annotated[Annotated[str, Field(pattern=r"^[0-9]+[bkmg]?$")] | None, RuntimeOnly]
    container_name: Annotated[str, RuntimeOnly]
    host: str
    host_port: Port
    startup_timeout_s: Annotated[float, Field(gt=0), RuntimeOnly]
    max_client_batch_size: Annotated[int, Field(ge=1), RuntimeOnly]
    verify_fingerprint: Annotated[bool, RuntimeOnly]
