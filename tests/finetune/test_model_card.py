"""The model card as the Hugging Face hub reads it."""

from __future__ import annotations

from typing import Any

import pytest
from huggingface_hub import ModelCard

from assets_pkg.config.profile_files import load_profile
from assets_pkg.finetune.model_card import model_card


def make(base_summary: dict[str, Any]) -> ModelCard:
    model = load_profile("laptop", ["query_prefix='query: '"]).model
    settings = {"temperature": 0.05, "seed": 42}
    return ModelCard(
        model_card(base_summary, "base0", "mined0", model, settings, {"final loss": 0.123456789})
    )


@pytest.mark.parametrize("licence", ["apache-2.0", "other: see LICENSE # of the model"])
def test_the_hub_reads_base_and_licence(licence: str) -> None:
    card = make({"source": "BAAI/bge-small-en", "licence": licence, "dimension": 384, "revision": "abc"})
    assert card.data.license == licence
    assert card.data.base_model == "BAAI/bge-small-en"
    assert card.data.library_name == "sentence-transformers"
    assert card.data.tags == ["sentence-transformers", "feature-extraction", "retune"]
    for line in (
        "| revision of the base | abc |",
        "| final loss | 0.123457 |",
        "| temperature | 0.05 |",
        "`query: `",
    ):
        assert line in card.text


def test_a_base_that_is_not_on_the_hub_is_not_linked() -> None:
    card = make({"source": "/models/mine"})
    assert card.data.base_model is None
    assert card.data.license is None
    assert "| base model | /models/mine |" in card.text
    assert "| licence of the base | not stated |" in card.text
