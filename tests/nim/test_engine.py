"""`OnnxEncoder`: the checkpoint's vectors, in order, without a server."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from assets_pkg.nim.engine import OnnxEncoder
from assets_pkg.nim.manifest import FolderError
from assets_pkg.nim.model import BadOutputError
from tests.nim.serving import environment

pytestmark = pytest.mark.slow

TEXTS = [f"text {number} " + "and more of it " * (number * 7 % 40) for number in range(24)]


@pytest.fixture(scope="module")
def encoder(folder: Path) -> OnnxEncoder:
    return OnnxEncoder(folder, threads=2)


@pytest.mark.parametrize("role", ["query", "passage"])
def test_same_vectors_as_the_checkpoint(encoder: OnnxEncoder, oracle: Any, role: Any) -> None:
    vectors = encoder.embed(TEXTS, role)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, oracle([f"{role}: {text}" for text in TEXTS]), atol=2e-6)


@pytest.mark.parametrize("batch_tokens", [1, 100, 5000])
def test_batch_size_does_not_show(encoder: OnnxEncoder, batch_tokens: int) -> None:
    expected = encoder.embed(TEXTS, "query")
    np.testing.assert_allclose(encoder.embed(TEXTS, "query", batch_tokens=batch_tokens), expected, atol=2e-6)


def test_nothing_in_nothing_out(encoder: OnnxEncoder) -> None:
    assert encoder.embed([], "query").shape == (0, 384)


def test_a_text_with_nothing_to_read_gets_the_checkpoints_vector(encoder: OnnxEncoder, oracle: Any) -> None:
    texts = ["fine", "\ufffd\ufffd", "\u200b", ""]
    expected = oracle([f"passage: {text}" for text in texts])
    np.testing.assert_allclose(encoder.embed(texts, "passage"), expected, atol=2e-6)


def test_not_a_number_never_gets_out(folder: Path, tmp_path: Path) -> None:
    """A model with one weight that is not a number."""
    import onnx

    shutil.copytree(folder, tmp_path / "model")
    path = str(tmp_path / "model" / "model.onnx")
    model = onnx.load(path)
    weights = next(value for value in model.graph.initializer if value.dims == [384])
    weights.raw_data = np.full(384, np.nan, dtype=np.float32).tobytes()
    onnx.save_model(model, path)
    with pytest.raises(BadOutputError, match="not finite"):
        OnnxEncoder(tmp_path / "model").embed(["a"], "query")


def test_a_large_batch_gives_its_memory_back(folder: Path) -> None:
    """8 rows of 500 tokens need half a gigabyte while they run."""
    script = (
        "import numpy as np, psutil; from pathlib import Path\n"
        "from assets_pkg.nim.manifest import read_manifest; from assets_pkg.nim.model import OnnxModel\n"
        f"folder = Path({str(folder)!r}); model = OnnxModel(folder, read_manifest(folder))\n"
        "rows = [np.full(500, 7, dtype=np.int64)] * 8\n"
        "model.embed(rows[:1]); before = psutil.Process().memory_info().rss\n"
        "model.embed(rows); print(psutil.Process().memory_info().rss - before)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment(), capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 150e6


def test_missing_folder() -> None:
    with pytest.raises(FolderError, match="is not a folder"):
        OnnxEncoder(Path("/nonexistent"))


def test_damaged_manifest_is_explained(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "model")
    path = tmp_path / "model" / "retune_model.json"
    path.write_text(path.read_text().replace('"mean"', '"max"'))
    with pytest.raises(FolderError, match=r"retune_model\.json is not a valid manifest: pooling: "):
        OnnxEncoder(tmp_path / "model")
