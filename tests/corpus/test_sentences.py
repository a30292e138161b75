"""Sentence boundaries, worked by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assets_pkg.corpus.segmentation import split_sentences


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("Use zipfile.ZipFile here. Next.", ["Use zipfile.ZipFile here. ", "Next."]),
        ("See Fig. 3 by Dr. Smith, e.g. Foo. Then?", ["See Fig. 3 by Dr. Smith, e.g. Foo. ", "Then?"]),
        ("Is it (really)? Yes!\nGood.", ["Is it (really)? ", "Yes!\n", "Good."]),
        ("你好。再见。", ["你好。", "再见。"]),
        ("", []),
    ],
)
def test_boundaries(text: str, sentences: list[str]) -> None:
    assert split_sentences(text) == sentences


@given(st.text())
def test_nothing_is_lost(text: str) -> None:
    assert "".join(split_sentences(text)) == text
