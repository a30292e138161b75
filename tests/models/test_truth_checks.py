"""The truth checks pass on what is registered rightly, and fail on each planted fault."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resources.encoders.base import Role
from resources.encoders.conformance import truth_checks
from resources.encoders.dual_tower import DualTowerEncoder
from resources.encoders.factory import LOCAL
from resources.encoders.items import Input
from resources.encoders.qwen3_vl import Qwen3VLEncoder
from resources.encoders.registered_text import RegisteredTextEncoder
from resources.machine.accelerator import Accelerator
from resources.models.entry import ModelEntry
from resources.models.files import digest_model
from resources.models.registry import load_registry
from storage.progress import Progress, no_progress
from tests.models import tiny


def failed(entry: ModelEntry, encoder: Any) -> set[str]:
    return {check.name for check in truth_checks(entry, encoder) if check.passed is False}


def passed(entry: ModelEntry, encoder: Any) -> set[str]:
    return {check.name for check in truth_checks(entry, encoder) if check.passed}


@pytest.mark.parametrize(
    ("name", "seen"),
    [
        ("qwen3-vl", {"padding side", "attention", "pooling"}),
        ("clip", {"padding side", "attention"}),
        ("siglip", {"attention", "padded to maximum"}),
        ("llama", {"padding side", "attention", "pooling"}),
    ],
)
def test_a_true_entry_passes(
    name: str, seen: set[str], zoo: Path, entries: dict[str, ModelEntry], cpu: Accelerator
) -> None:
    entry = entries[name]
    encoder = LOCAL[entry.adapter](zoo / name, entry, "digest", cpu)
    always = {"unit norm", "dimensions", "batch equals single", "padding invariant"}
    assert failed(entry, encoder) == set()
    assert passed(entry, encoder) == always | seen


@pytest.mark.slow
def test_the_real_minilm_is_what_the_registry_says(minilm: Path, cpu: Accelerator) -> None:
    entry = load_registry().get("minilm")
    encoder = RegisteredTextEncoder(minilm, entry, digest_model(minilm), cpu)
    assert failed(entry, encoder) == set()
    assert {"attention", "pooling", "padding side", "dimensions"} <= passed(entry, encoder)


@pytest.mark.parametrize(
    ("built", "fault"),
    [
        ({"pooling": "mean", "padding_side": "left", "causal": False}, set()),
        ({"pooling": "mean", "padding_side": "right", "causal": False}, set()),  # the registry's side is used
        ({"pooling": "lasttoken", "padding_side": "left", "causal": False}, {"pooling"}),
        ({"pooling": "cls", "padding_side": "left", "causal": False}, {"pooling"}),
        ({"pooling": "mean", "padding_side": "left", "causal": True}, {"attention"}),
    ],
)
def test_a_planted_fault_in_a_text_models_folder_fails_its_check(
    built: dict[str, Any], fault: set[str], tmp_path: Path, entries: dict[str, ModelEntry], cpu: Accelerator
) -> None:
    folder = tiny.build_sentence_llama(tmp_path, **built)
    assert failed(entries["llama"], RegisteredTextEncoder(folder, entries["llama"], "digest", cpu)) == fault


def test_a_wrong_dimension_and_direction_in_the_registry_fail(
    zoo: Path, entries: dict[str, ModelEntry], cpu: Accelerator
) -> None:
    wrong = entries["clip"].model_copy(update={"dimensions": 64, "attention": "bidirectional"})
    encoder = DualTowerEncoder(zoo / "clip", entries["clip"], "digest", cpu)
    assert failed(wrong, encoder) == {"dimensions", "attention"}


def test_siglip_without_its_fixed_padding_fails(
    zoo: Path, entries: dict[str, ModelEntry], cpu: Accelerator
) -> None:
    class Unpadded(DualTowerEncoder):
        """As everybody first writes it: padded to the longest of the batch."""

        def _text_features(self, texts: Sequence[str], role: Role) -> dict[str, Any]:
            _, tokenizer, _ = self._load()
            return {
                "input_ids": tokenizer(
                    list(texts), padding=True, truncation=True, max_length=16, return_tensors="pt"
                )["input_ids"]
            }

    encoder = Unpadded(zoo / "siglip", entries["siglip"], "digest", cpu)
    texts = ["red", "dark blue sea"]
    assert encoder.embed(texts, "query").shape == (2, 32)
    assert {"batch equals single", "padded to maximum"} <= failed(entries["siglip"], encoder)


class TestQwen3VL:
    def test_padding_on_the_other_side_is_seen(
        self, zoo: Path, entries: dict[str, ModelEntry], cpu: Accelerator
    ) -> None:
        left = entries["qwen3-vl"].model_copy(update={"padding_side": "left"})
        encoder = Qwen3VLEncoder(zoo / "qwen3-vl", left, "digest", cpu)
        assert "padding side" in failed(entries["qwen3-vl"], encoder)

    def test_a_causal_mask_taken_away_is_seen(
        self, zoo: Path, entries: dict[str, ModelEntry], cpu: Accelerator
    ) -> None:
        encoder = Qwen3VLEncoder(zoo / "qwen3-vl", entries["qwen3-vl"], "digest", cpu)
        encoder._load().model.config.text_config.is_causal = False
        encoder._load().model.language_model.config.is_causal = False
        assert "attention" in failed(entries["qwen3-vl"], encoder)

    def test_reading_the_padding_instead_of_the_last_token_is_seen(
        self, zoo: Path, entries: dict[str, ModelEntry], cpu: Accelerator, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("resources.encoders.qwen3_vl.last_token", lambda hidden, mask: hidden[:, -1])
        encoder = Qwen3VLEncoder(zoo / "qwen3-vl", entries["qwen3-vl"], "digest", cpu)
        wrong = {"batch equals single", "padding invariant", "pooling"}
        assert wrong <= failed(entries["qwen3-vl"], encoder)


def test_attention_that_changes_with_the_batch_is_seen(
    zoo: Path, entries: dict[str, ModelEntry], cpu: Accelerator
) -> None:
    """Old remote code on transformers 5: both directions for a text alone, causal in a padded batch."""

    class OldRemoteCode(RegisteredTextEncoder):
        def observe(self, texts: Sequence[str], role: Role) -> Any:
            network: Any = self._load()
            network.config.is_causal = len(texts) > 1
            return super().observe(texts, role)

        def embed(self, texts: Sequence[Input], role: Role, progress: Progress = no_progress) -> Any:
            network: Any = self._load()
            network.config.is_causal = len(texts) > 1
            return super().embed(texts, role, progress)

    encoder = OldRemoteCode(zoo / "llama", entries["llama"], "digest", cpu)
    checks = {check.name: check for check in truth_checks(entries["llama"], encoder)}
    assert checks["attention"].passed is False
    assert checks["attention"].detail == "bidirectional for a text alone, causal in a padded batch"
    assert checks["batch equals single"].passed is False


def test_vectors_that_are_not_of_length_1_are_seen(
    zoo: Path, entries: dict[str, ModelEntry], cpu: Accelerator
) -> None:
    class Halved(DualTowerEncoder):
        def embed(self, items: Sequence[Input], role: Role, progress: Progress = no_progress) -> Any:
            return super().embed(items, role, progress) / np.float32(2)

    encoder = Halved(zoo / "clip", entries["clip"], "digest", cpu)
    assert "unit norm" in failed(entries["clip"], encoder)
