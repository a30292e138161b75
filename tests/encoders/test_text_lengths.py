"""Which texts are truncated, against transformers' own tokenizers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from resources.encoders.factory import Availability
from resources.encoders.loading import transformers
from resources.encoders.text_lengths import text_length
from resources.models.entry import ModelEntry
from resources.models.locations import ModelLocation
from tests.models import tiny
from tests.models.conftest import CLIP


def found(where: Path | None, **facts: Any) -> Availability:
    entry = ModelEntry.model_validate({"adapter": "sentence_transformer", "folder": "x", **facts})
    kind = "folder" if where else "server"
    return Availability("x", entry, ModelLocation(kind, folder=where), None)


def texts(limit: int) -> list[str]:
    """From far below to far above the limit, in the tiny tokenizer's short tokens."""
    return ["a" + " a" * (count // 2) for count in range(2, 3 * limit)]


@pytest.mark.parametrize("limit", [12, 64])
def test_texts_above_the_limit_are_those_that_the_tokenizer_cuts(limit: int, tmp_path: Path) -> None:
    folder = tiny.build_llama(tmp_path / "llama")
    tokenizer = transformers().AutoTokenizer.from_pretrained(str(folder))
    length = text_length(found(folder, max_tokens=limit, prompts={"passage": "p: "}))
    assert length is not None
    expected = [len(tokenizer(f"p: {text}")["input_ids"]) > limit for text in texts(limit)]
    assert True in expected
    assert False in expected
    assert length.truncated(texts(limit)) == expected


def test_a_dual_tower_has_the_limit_of_its_text_tower(tmp_path: Path) -> None:
    folder = tiny.build_clip(tmp_path / "clip")
    model = found(folder, **{**CLIP, "max_tokens": None})
    length = text_length(model)
    assert length is not None
    config = transformers().AutoConfig.from_pretrained(str(folder))
    assert length.tokens == config.text_config.max_position_embeddings


def test_a_server_does_not_tell() -> None:
    assert text_length(found(None)) is None
