"""Eight-bit exports of MiniLM: their distance, their size, and whether a vector depends on its batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from assets_pkg.export.onnx import OnnxExportSettings, export_onnx
from assets_pkg.export.parity import Parity, cosine_distances, measure_parity
from assets_pkg.nim.manifest import read_manifest
from assets_pkg.nim.model import OnnxModel
from assets_pkg.nim.tokens import TextTokenizer

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=["int8_weights", "int8_dynamic"])
def quantized(request: pytest.FixtureRequest, minilm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param) / "model"
    settings = OnnxExportSettings(export_dtype=request.param, max_length=128)
    export_onnx(minilm, folder, model_id="m", model_digest="ab", settings=settings)
    return folder


def test_stays_near_its_checkpoint(quantized: Path, minilm: Path, texts: list[str]) -> None:
    parity: Parity = measure_parity(minilm, quantized, texts[:24])
    near = {"int8_weights": (0.01, 0.95), "int8_dynamic": (0.1, 0.85)}
    distance, overlap = near[read_manifest(quantized).dtype]
    assert parity.max_cosine_distance < distance
    assert parity.top10_overlap >= overlap


def test_is_smaller(quantized: Path, minilm: Path) -> None:
    full = (minilm / "model.safetensors").stat().st_size
    assert (quantized / "model.onnx").stat().st_size < 0.75 * full


def test_says_truly_whether_company_changes_a_vector(quantized: Path, texts: list[str]) -> None:
    manifest = read_manifest(quantized)
    model, tokenizer = OnnxModel(quantized, manifest), TextTokenizer(quantized, manifest)
    rows: Any = tokenizer.encode(texts[:16], "passage")
    alone = np.concatenate([model.embed([row]) for row in rows])
    moved = cosine_distances(alone, model.embed(rows)).max()
    assert (moved < 1e-6) == manifest.batch_invariant
