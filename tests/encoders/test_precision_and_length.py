"""Weights in 8 bits, and vectors that are cut, against the whole ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from assets_pkg.config.sections.image_text import ScoreSettings
from assets_pkg.image_text.scores import truncating, with_precision
from resources.encoders.factory import look_up, open_encoder
from resources.encoders.int8_linear import Int8Linear
from resources.encoders.items import ItemEncoder
from resources.machine.accelerator import Accelerator
from resources.models.entry import ModelEntry
from resources.models.registry import Registry
from tests.models import tiny
from tests.models.conftest import CLIP, QWEN3_VL

CPU = Accelerator("cpu", "cpu", bf16=False, memory_bytes=0)
TEXTS = ["a pump", "a blue valve", "oil"]


def settings(dimensions: int | None = None) -> ScoreSettings:
    return ScoreSettings(
        image_text_models=["x"],
        recall_at=[1],
        fuse_captions=True,
        truncate_dimensions=dimensions,
        load_precision=None,
    )


def test_a_layer_in_8_bits_is_within_half_a_step_for_each_weight() -> None:
    torch.manual_seed(0)
    linear = nn.Linear(48, 32)
    layer = Int8Linear(linear)
    step = linear.weight.abs().amax(dim=1, keepdim=True) / 127
    assert layer.weight.dtype == torch.int8
    assert ((layer.weight * layer.scale[:, None] - linear.weight).abs() <= step / 2 + 1e-7).all()
    inputs = torch.randn(5, 48)
    bound = inputs.abs().sum(dim=1, keepdim=True) * step.T / 2
    assert ((layer(inputs) - linear(inputs)).abs() <= bound + 1e-5).all()
    assert layer(inputs.bfloat16()).dtype == torch.bfloat16


def test_a_row_of_zeros_stays_zero() -> None:
    linear = nn.Linear(4, 2, bias=False)
    nn.init.zeros_(linear.weight)
    assert (Int8Linear(linear)(torch.ones(1, 4)) == 0).all()


LLAMA = {
    "adapter": "sentence_transformer",
    "folder": "llama",
    "pooling": "mean",
    "attention": "bidirectional",
}
KINDS = {
    "clip": (CLIP, tiny.build_clip),
    "qwen3_vl": (QWEN3_VL, tiny.build_qwen3_vl),
    "llama": (LLAMA, tiny.build_llama),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_is_loaded_in_8_bits_by_setting_and_its_vectors_are_near(kind: str, tmp_path: Path) -> None:
    facts, build = KINDS[kind]
    entry = ModelEntry.model_validate(facts)
    build(tmp_path / str(entry.folder))
    whole = look_up(Registry(Path("models.yaml"), {"tiny": entry}), "tiny", tmp_path)
    small = with_precision(whole, "int8")
    encoders = [open_encoder(model, CPU) for model in (whole, small)]
    full, quantised = (encoder.embed(TEXTS, "passage") for encoder in encoders)
    assert encoders[0].identity("passage") != encoders[1].identity("passage")
    cosines = (full * quantised).sum(axis=1)
    assert (cosines > 0.99).all()
    assert (cosines < 1 - 1e-9).any()


def test_a_model_keeps_the_precision_of_the_registry_by_default(tmp_path: Path) -> None:
    entry = ModelEntry.model_validate(CLIP)
    tiny.build_clip(tmp_path / str(entry.folder))
    found = look_up(Registry(Path("models.yaml"), {"tiny": entry}), "tiny", tmp_path)
    assert with_precision(found, None) is found


def test_vectors_are_cut_and_scaled_of_models_that_are_trained_for_it(tmp_path: Path) -> None:
    entry = ModelEntry.model_validate(CLIP)
    tiny.build_clip(tmp_path / str(entry.folder))
    found = look_up(Registry(Path("models.yaml"), {"tiny": entry}), "tiny", tmp_path)
    length = open_encoder(found, CPU).dimensions

    def opened(trained: list[int], wanted: int | None) -> ItemEncoder:
        facts = entry.model_copy(update={"matryoshka_dims": trained})
        return truncating(lambda: open_encoder(found, CPU), facts, settings(wanted))()

    full = opened([8], None).embed(TEXTS, "query")
    assert np.array_equal(opened([16], 8).embed(TEXTS, "query"), full)
    cut = opened([8], 8)
    expected = full[:, :8] / np.linalg.norm(full[:, :8], axis=1, keepdims=True)
    assert cut.dimensions == 8 < length
    np.testing.assert_allclose(cut.embed(TEXTS, "query"), expected, atol=1e-6)


def test_settings_that_came_later_change_no_digest_until_they_are_set() -> None:
    earlier = {"image_text_models": ["x"], "recall_at": [1], "fuse_captions": True}
    assert settings().decisive() == earlier
    assert settings(8).decisive() == {**earlier, "truncate_dimensions": 8}
