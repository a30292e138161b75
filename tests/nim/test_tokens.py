"""Tokenising agrees with the tokenizer's own truncation, for any text, and shares no state."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from assets_pkg.export.onnx import OnnxExportSettings, export_onnx
from assets_pkg.nim.manifest import read_manifest
from assets_pkg.nim.tokens import TextError, TextTokenizer, TooLongError
from tests.export.checkpoints import make_llama

MAX_LENGTH = 32

words = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=12)
some_text = st.lists(words, min_size=1, max_size=60).map(" ".join)


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> TextTokenizer:
    return TextTokenizer(folder, read_manifest(folder), MAX_LENGTH)


@pytest.fixture(scope="module")
def bare(folder: Path) -> TextTokenizer:
    manifest = read_manifest(folder).model_copy(update={"query_prefix": "", "passage_prefix": ""})
    return TextTokenizer(folder, manifest, MAX_LENGTH)


@pytest.fixture(scope="module")
def reference(folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(folder)


def encode(reference: Any, text: str, side: str = "right") -> list[int]:
    reference.truncation_side = side
    return reference.encode(text, truncation=True, max_length=MAX_LENGTH)


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(text=some_text)
def test_end_is_the_tokenizers_own_truncation(tokenizer: TextTokenizer, reference: Any, text: str) -> None:
    assert tokenizer.encode([text], "passage")[0].tolist() == encode(reference, "passage: " + text)


@pytest.mark.parametrize("text", ["\ufffd\ufffd", "\x00\x01", "\u200b", ""])
@pytest.mark.parametrize("truncate", ["END", "START", "NONE"])
def test_a_text_without_readable_tokens_is_its_prefix(
    tokenizer: TextTokenizer, reference: Any, text: str, truncate: Any
) -> None:
    """As sentence-transformers embeds it: what is indexed here can be indexed through the server too."""
    found = tokenizer.encode(["one", text], "passage", truncate)[1].tolist()
    assert found == encode(reference, "passage: " + text) == encode(reference, "passage: ")


def test_a_text_that_gives_no_token_at_all_is_named(folder: Path, tmp_path: Path) -> None:
    """A tokenizer without special tokens, and no prefix: there is nothing to run the model on."""
    document = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    (tmp_path / "tokenizer.json").write_text(json.dumps(document | {"post_processor": None}), "utf-8")
    manifest = read_manifest(folder).model_copy(update={"query_prefix": "", "passage_prefix": ""})
    with pytest.raises(TextError, match=r"input\[1\] has no text that the model can read") as error:
        TextTokenizer(tmp_path, manifest).encode(["fine", "\ufffd"], "query")
    assert error.value.index == 1


@settings(max_examples=200, deadline=None)
@given(text=some_text.filter(lambda text: any(letter.isascii() and letter.isalnum() for letter in text)))
def test_start_without_a_prefix_is_the_tokenizers_own(bare: TextTokenizer, reference: Any, text: str) -> None:
    assert bare.encode([text], "query", "START")[0].tolist() == encode(reference, text, side="left")


@pytest.mark.parametrize("filler", ["word ", "a", " ", "x" * 150 + " "])
@pytest.mark.parametrize("truncate", ["END", "START"])
def test_long_texts_are_cut_as_if_read_whole(
    bare: TextTokenizer, reference: Any, filler: str, truncate: Any
) -> None:
    """Far beyond what is read ahead; with spaces only, the readable part lies beyond it too."""
    text = "first words " + filler * 1500 + " last words"
    side = "right" if truncate == "END" else "left"
    limit = MAX_LENGTH * 250
    whole = text[:limit] if truncate == "END" else text[-limit:]
    assert bare.encode([text], "query", truncate)[0].tolist() == encode(reference, whole, side)


def test_none_counts_exactly(tokenizer: TextTokenizer, reference: Any) -> None:
    fits = "word " * (MAX_LENGTH - 4)
    assert len(tokenizer.encode([fits], "query", "NONE")[0]) == MAX_LENGTH
    with pytest.raises(
        TooLongError, match=f"^Input length {MAX_LENGTH + 1} exceeds maximum allowed token size"
    ) as error:
        tokenizer.encode(["fine", fits + "more"], "query", "NONE")
    assert error.value.index == 1


def test_none_refuses_a_huge_text_unread(tokenizer: TextTokenizer) -> None:
    with pytest.raises(TooLongError, match="8001 characters exceeds maximum allowed token size 32"):
        tokenizer.encode([" " * 8001], "query", "NONE")


def test_a_batch_is_its_texts(tokenizer: TextTokenizer) -> None:
    texts = ["one", "two words", "much longer " * 40]
    together = tokenizer.encode(texts, "query")
    assert [row.tolist() for row in together] == [
        tokenizer.encode([text], "query")[0].tolist() for text in texts
    ]


@pytest.mark.slow
def test_decoder_tokenizer_puts_its_token_first(tmp_path: Path) -> None:
    checkpoint = make_llama(tmp_path, ["What is it?", "It is a test."], is_causal=False, query="query: ")
    manifest = export_onnx(
        checkpoint, tmp_path / "model", model_id="llama", model_digest="ab", settings=OnnxExportSettings()
    )
    reference = AutoTokenizer.from_pretrained(checkpoint)
    row = TextTokenizer(tmp_path / "model", manifest).encode(["What is it?"], "query")[0]
    assert row.tolist() == reference.encode("query: What is it?")
    assert row[0] == reference.bos_token_id
