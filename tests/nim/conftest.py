"""A served MiniLM: its folder, a real server process over it, and the checkpoint as the oracle."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pytest

from assets_pkg.export.onnx import OnnxExportSettings, export_onnx
from tests.conftest import made_once
from tests.nim.serving import Server, serving

MODEL_ID = "retune/minilm"
DIGEST = "5eed" * 16

Embed = Callable[[Sequence[str]], npt.NDArray[np.float32]]
Start = Callable[..., Any]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory, minilm: Path) -> Path:
    """MiniLM with the prefixes of a retrieval model, and two Matryoshka sizes."""
    settings = OnnxExportSettings(
        query_prefix="query: ", passage_prefix="passage: ", matryoshka_dims=(64, 128), license="apache-2.0"
    )

    def make(folder: Path) -> None:
        export_onnx(minilm, folder / "model", model_id=MODEL_ID, model_digest=DIGEST, settings=settings)

    return made_once(tmp_path_factory, "served-minilm", make) / "model"


@pytest.fixture(scope="session")
def tiny_export(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """A model of 32 dimensions, for what does not depend on the vectors."""
    target = tmp_path_factory.mktemp("tiny") / "model"
    export_onnx(tiny_model, target, model_id="tiny", model_digest=DIGEST, settings=OnnxExportSettings())
    return target


@pytest.fixture(scope="session")
def oracle(minilm: Path) -> Embed:
    """The checkpoint under sentence-transformers: texts, prefix and all, to float32 [n, 384] unit rows."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(minilm), device="cpu")

    def embed(texts: Sequence[str]) -> npt.NDArray[np.float32]:
        encoded: Any = model.encode(list(texts), normalize_embeddings=True, show_progress_bar=False)
        return cast(npt.NDArray[np.float32], encoded)

    return embed


@pytest.fixture(scope="session")
def start(folder: Path) -> Start:
    """Starts a server over the folder: ``with start("--reuse-port", NIM_...="1") as server``."""

    def started(*arguments: str, **variables: str) -> Any:
        return serving(folder, *arguments, **variables)

    return started


@pytest.fixture(scope="session")
def server(start: Start) -> Generator[Server]:
    """One server with the default settings, for all tests that leave it as it was."""
    with start(RETUNE_DRAIN_GRACE_S="0") as running:
        yield running
