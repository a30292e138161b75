"""The gate measures other eval sets too, and refuses a model that has forgotten them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from assets_pkg.config.profile_files import load_profile
from assets_pkg.config.sections.evaluation import EvalSettings
from assets_pkg.evaluation.guard import guard_checks
from assets_pkg.evaluation.promotion import GateError
from resources.encoders.base import Encoder, Role
from resources.encoders.sentence_transformer import SentenceTransformerEncoder
from storage.formats.beir import BeirDocument, BeirQuery, write_beir
from storage.progress import Progress, no_progress
from tests.finetune.conftest import CPU


class OneHot:
    """A document's vector is its number; so is a question's, but for those that the model has forgotten."""

    dimensions = 40

    def __init__(self, forgotten: int):
        self.forgotten = forgotten

    def identity(self, role: Role) -> str:
        return f"one-hot-{self.forgotten}-{role}"

    def embed(self, texts: Sequence[str], role: Role, progress: Progress = no_progress) -> Any:
        numbers = np.array([int(text) for text in texts])
        if role == "query":
            numbers = np.where(numbers < self.forgotten, (numbers + 1) % 40, numbers)
        return np.eye(40, dtype=np.float32)[numbers]


def model(forgotten: int) -> Callable[[], AbstractContextManager[Encoder]]:
    return lambda: nullcontext(OneHot(forgotten))


@pytest.fixture
def general(tmp_path: Path) -> Path:
    documents = [BeirDocument(f"d{number}", str(number)) for number in range(40)]
    queries = [BeirQuery(f"q{number}", str(number)) for number in range(40)]
    write_beir(tmp_path / "general", documents, queries, {f"q{n}": {f"d{n}": 1} for n in range(40)})
    return tmp_path / "general"


@pytest.mark.parametrize(
    ("forgotten", "tolerated", "passed"),
    [(0, 0.01, True), (20, 0.01, False), (20, 0.6, True), (1, 0.01, True)],
)
def test_a_real_loss_beyond_the_limit_is_refused(
    general: Path, settings: EvalSettings, forgotten: int, tolerated: float, passed: bool
) -> None:
    """One question of forty is within chance."""
    gate = load_profile("laptop", [f"gate.guard_sets=[{general}]", f"gate.max_general_loss={tolerated}"]).gate
    (check,) = guard_checks(gate, model(0), model(forgotten), settings)
    assert check.passed is passed
    assert check.rule == f"on general it loses no more than max_general_loss = {tolerated:g}"
    assert check.figures.startswith("NDCG@10 1.0000 -> ")


def test_no_guard_sets_measure_nothing_and_a_wrong_one_is_named(
    tmp_path: Path, settings: EvalSettings
) -> None:
    gate = load_profile("laptop", ["gate.guard_sets=[]"]).gate
    assert guard_checks(gate, model(0), model(0), settings) == []
    assert set(gate.decisive()) == {"metric", "min_delta", "max_regression"}
    with pytest.raises(GateError, match="is no BEIR folder"):
        guard_checks(gate.model_copy(update={"guard_sets": [str(tmp_path)]}), model(0), model(0), settings)


@pytest.mark.slow
def test_the_set_that_comes_with_retune_sees_damaged_weights(
    minilm: Path, settings: EvalSettings, tmp_path: Path
) -> None:
    """Every tenth of MiniLM's tokens has lost its vector."""
    from sentence_transformers import SentenceTransformer

    damaged = SentenceTransformer(str(minilm), device="cpu")
    embeddings = damaged[0].auto_model.embeddings.word_embeddings.weight
    embeddings.data[::10] = 0
    damaged.save_pretrained(str(tmp_path))
    profile = load_profile("laptop")

    def opened(folder: Path) -> Callable[[], SentenceTransformerEncoder]:
        return lambda: SentenceTransformerEncoder(folder, folder.name, CPU, profile.model.encoder_config())

    (same,) = guard_checks(profile.gate, opened(minilm), opened(minilm), settings)
    assert same.passed
    assert same.figures.startswith("NDCG@10 0.7488 -> 0.7488")
    (worse,) = guard_checks(profile.gate, opened(minilm), opened(tmp_path), settings)
    assert not worse.passed
