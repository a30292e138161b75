"""Tiny models behind real servers on this machine."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import uvicorn

from assets_pkg.model_server.api import build_app
from assets_pkg.model_server.engine import Engine, ModelServerSettings, Served
from assets_pkg.nim.server import bind, guarded_config
from resources.encoders.factory import LOCAL
from resources.encoders.items import ItemEncoder
from resources.machine.accelerator import Accelerator
from resources.models.entry import ModelEntry
from tests.models import tiny
from tests.models.conftest import CLIP, QWEN3_VL

CPU = Accelerator("cpu", "cpu", bf16=False, memory_bytes=0)


class Running:
    """A served model: its URL, and the encoder behind it to compare with."""

    def __init__(self, url: str, entry: ModelEntry, encoder: ItemEncoder):
        self.url = url
        self.entry = entry
        self.encoder = encoder


@contextmanager
def listening(engine: Engine) -> Iterator[str]:
    """The URL of a server over an engine; both end with the block."""
    listener = bind("127.0.0.1", 0)
    server = uvicorn.Server(
        guarded_config(build_app(engine), ModelServerSettings(), grace_s=10, log_level="warning")
    )
    thread = threading.Thread(target=lambda: server.run(sockets=[listener]), daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        engine.close()
        listener.close()


@contextmanager
def running(name: str, entry: ModelEntry, folder: Path) -> Iterator[Running]:
    encoder = LOCAL[entry.adapter](folder, entry, "digest", CPU)
    with listening(Engine(Served(name, entry, encoder))) as url:
        yield Running(url, entry, encoder)


@pytest.fixture(scope="session")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A tiny Qwen3-VL: text, image, and both together."""
    entry = ModelEntry.model_validate({**QWEN3_VL, "hub_id": "Qwen/tiny", "matryoshka_dims": [16, 32, 64]})
    folder = tiny.build_qwen3_vl(tmp_path_factory.mktemp("served") / "qwen3-vl")
    with running("tiny-qwen", entry, folder) as served:
        yield served


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A tiny CLIP: text or image."""
    folder = tiny.build_clip(tmp_path_factory.mktemp("served") / "clip")
    with running("tiny-clip", ModelEntry.model_validate(CLIP), folder) as served:
        yield served


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory, minilm: Path) -> Path:
    """MiniLM as the embedding server serves it."""
    from assets_pkg.export.onnx import OnnxExportSettings, export_onnx

    folder = tmp_path_factory.mktemp("exported") / "model"
    settings = OnnxExportSettings(matryoshka_dims=(64,))
    export_onnx(minilm, folder, model_id="m", model_digest="ab", settings=settings)
    return folder
