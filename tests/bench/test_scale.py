"""The arithmetic of docs/scale.md, worked by hand, and the document against it."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from storage.digests import digest_text
from storage.embedding_cache import FILE_NAME, EmbeddingCache
from tests.bench.conftest import load_script

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def scale() -> ModuleType:
    return load_script("scale")


def test_the_document_says_what_the_script_computes(scale: ModuleType) -> None:
    text = (ROOT / "docs" / "scale.md").read_text("utf-8")
    assumptions, measured = scale.Assumptions(), scale.Measured()
    made = scale.tables(assumptions, [scale.processor(measured, 16, 0.80), *scale.GPUS])
    assert set(re.findall(r"<!-- scale:([\w-]+) -->", text)) == set(made)
    assert scale.fill(text, made) == text


def test_operations_of_a_passage(scale: ModuleType) -> None:
    model = scale.Model("toy", 1100, 100, layers=2, hidden=8, inner=16, heads=2, gated=False)
    # 2 x 1000 weights and 4 x 2 blocks x 10 tokens x 8 wide, for each of 10 tokens.
    assert model.forward_flops(10) == 10 * (2000 + 640)


def test_the_measured_rate_of_embedding_comes_out_again(scale: ModuleType) -> None:
    one_core = scale.processor(scale.Measured(), 1, 0.0)
    seconds = scale.embedding_seconds(35, scale.MODELS[0], one_core, scale.Assumptions(cores=1))
    assert seconds == pytest.approx(1.0, rel=0.05)


def test_mining(scale: ModuleType) -> None:
    model, assumptions = scale.MODELS[0], scale.Assumptions()
    gpu = scale.Device("card", 100, 10, 24, 1.0, share=0.5)
    # 2 x 10^5 x 10^6 x 384 = 76.8 TFLOP at 5 TFLOP/s; reading 1.536 GB seven times at 2 GB/s is less.
    assert scale.mining_seconds(10**6, model, gpu, assumptions) == pytest.approx(15.36)


def test_training(scale: ModuleType) -> None:
    model = scale.Model("toy", 1100, 100, layers=0, hidden=8, inner=16, heads=2, gated=False)
    assumptions = scale.Assumptions(tokens=10, question_tokens=5, questions=1000, negatives=1)
    card = scale.Device("card", 1, 1, 24, 1.0, share=1.0)
    # Four times a pass over 5 + 2 x 10 tokens of 2,000 operations, for 1,000 questions.
    assert scale.training_seconds(model, card, assumptions) == pytest.approx(4 * 1000 * 25 * 2000 / 1e12)


@pytest.mark.slow
@pytest.mark.parametrize("dimensions", [384, 1024, 2048, 4096])
def test_bytes_of_the_cache(scale: ModuleType, tmp_path: Path, dimensions: int) -> None:
    """Against the size of a real cache."""
    names = [digest_text(str(row)) for row in range(8000)]
    EmbeddingCache(tmp_path).put(digest_text("model"), names, np.zeros((len(names), dimensions), np.float32))
    size = (tmp_path / FILE_NAME).stat().st_size
    assert size / len(names) == pytest.approx(scale.cache_bytes(dimensions), rel=0.05)


@pytest.mark.parametrize(
    ("value", "text"),
    [(9.7, "9.7 s"), (75, "1.2 min"), (7300, "2 h"), (86400 * 3, "3 days"), (1e9, "32 years")],
)
def test_durations(scale: ModuleType, value: float, text: str) -> None:
    assert scale.duration(value) == text
