from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from assets_pkg.finetune.adapter import train_adapter
from assets_pkg.finetune.errors import TrainingDataError
from resources.encoders.cached import CachedEncoder
from resources.encoders.sentence_transformer import SentenceTransformerEncoder
from storage.artifacts import Checkpoint
from storage.embedding_cache import EmbeddingCache
from tests.finetune.conftest import CPU, TrainingInputs, content_of

pytestmark = pytest.mark.slow


@pytest.fixture
def train(inputs: TrainingInputs, tmp_path: Path) -> Callable[..., Path]:
    def go(name: str = "tuned", **changes: Any) -> Path:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        encoder = SentenceTransformerEncoder(
            inputs.base.model, inputs.base.version, CPU, inputs.model.encoder_config()
        )
        chosen = inputs.settings(**{"method": "adapter", "learning_rate": 1e-2, "num_epochs": 6, **changes})
        train_adapter(inputs.mined, inputs.base, inputs.model, chosen, encoder, folder)
        return folder

    return go


def test_the_saved_model_is_the_base_and_one_matrix(train: Callable[..., Path], base: Checkpoint) -> None:
    from safetensors.numpy import load_file
    from sentence_transformers import SentenceTransformer

    folder = train()
    saved = folder / "model" / "consolidated"
    ours, theirs = content_of(folder), content_of(base.path)
    new = set(ours) - set(theirs)
    assert {name for name in theirs if ours[name] != theirs[name]} == {"model/consolidated/modules.json"}
    assert all("3_Dense" in name for name in new)
    matrix = load_file(saved / "3_Dense" / "model.safetensors")["linear.weight"]
    before, after = (SentenceTransformer(str(path), device="cpu") for path in (base.model, saved))
    texts = ["badin kefel ligor", "mohat"]
    projected = before.encode_query(texts) @ matrix.T
    expected = projected / np.linalg.norm(projected, axis=1, keepdims=True)
    assert after.encode_query(texts) == pytest.approx(expected, abs=1e-5)
    assert np.abs(matrix - np.eye(32)).max() > 0.01


def test_it_learns_and_says_what_it_did(train: Callable[..., Path]) -> None:
    folder = train()
    recorded = json.loads((folder / "summary.json").read_text())
    assert recorded["final_loss"] < recorded["initial_loss"] - 0.3
    assert recorded["steps_done"] == recorded["plan"]["steps"] == 24
    assert recorded["validation_ndcg_after"] is not None
    assert len((folder / "training.jsonl").read_text().splitlines()) == 24
    assert (folder / "loss.png").exists()
    assert "base0" in (folder / "model" / "consolidated" / "README.md").read_text()


@pytest.mark.parametrize("side", ["both", "query"])
def test_merged_with_the_base_it_takes_the_share_that_validates_best(
    side: str, train: Callable[..., Path]
) -> None:
    tuned, merged = (
        train("tuned", adapter_side=side),
        train("merged", adapter_side=side, merge_with_base=True),
    )
    recorded = json.loads((merged / "summary.json").read_text())
    scores = {float(share): score for share, score in recorded["merge_scores"].items()}
    assert set(scores) == {0, 0.25, 0.5, 0.75, 1}
    share = recorded["merge_weight"]
    assert scores[share] == max(scores.values()) == recorded["validation_ndcg_after"]
    assert scores[1] == json.loads((tuned / "summary.json").read_text())["validation_ndcg_after"]
    np.testing.assert_allclose(
        matrix_of(merged), (1 - share) * np.eye(32) + share * matrix_of(tuned), atol=1e-6
    )


def matrix_of(folder: Path) -> np.ndarray:
    from sentence_transformers import SentenceTransformer

    state = SentenceTransformer(str(folder / "model" / "consolidated"), device="cpu").state_dict()
    (name,) = (each for each in state if each.endswith("linear.weight") and ".document." not in each)
    return state[name].numpy()


def test_same_inputs_same_bytes_over_leftovers(train: Callable[..., Path]) -> None:
    first = content_of(train(num_epochs=1))
    assert content_of(train(num_epochs=1)) == first
    assert content_of(train("other", num_epochs=1, seed=7)) != first


def test_settings_that_do_not_go_with_it_are_refused(train: Callable[..., Path]) -> None:
    with pytest.raises(TrainingDataError, match=r"method = adapter: finetune\.lora_rank"):
        train(lora_rank=4)


def test_on_the_side_of_questions_passages_keep_the_bases_vectors(
    train: Callable[..., Path], inputs: TrainingInputs, tmp_path: Path
) -> None:
    """Nothing is embedded anew: the encoder finds the base's vectors in the cache."""
    folder = train(adapter_side="query")
    cache = EmbeddingCache(tmp_path / "cache")

    def encoder(checkpoint: Path, version: str) -> CachedEncoder:
        config = inputs.model.encoder_config()
        return CachedEncoder(SentenceTransformerEncoder(checkpoint, version, CPU, config), cache)

    before = encoder(inputs.base.model, inputs.base.version)
    after = encoder(folder / "model" / "consolidated", "tuned1")
    texts = ["badin kefel ligor", "mohat nujum", "sodin"]
    passages = before.embed(texts, "passage")
    assert np.array_equal(after.embed(texts, "passage"), passages)
    assert (after.hits, after.misses) == (3, 0)
    assert np.abs(after.embed(texts, "query") - before.embed(texts, "query")).max() > 0.01
    assert (after.hits, after.misses) == (3, 3)


def test_sentence_transformers_reads_a_matrix_on_the_side_of_questions(
    train: Callable[..., Path], inputs: TrainingInputs
) -> None:
    from sentence_transformers import SentenceTransformer

    saved = train(adapter_side="query") / "model" / "consolidated"
    before, after = (SentenceTransformer(str(path), device="cpu") for path in (inputs.base.model, saved))
    encoder = SentenceTransformerEncoder(saved, "tuned1", CPU, inputs.model.encoder_config())
    texts = ["badin kefel", "mohat"]
    assert after.encode_document(texts) == pytest.approx(before.encode_document(texts), abs=1e-6)
    assert after.encode_query(texts) == pytest.approx(encoder.embed(texts, "query"), abs=1e-5)
    assert np.abs(after.encode_query(texts) - before.encode_query(texts)).max() > 0.01
