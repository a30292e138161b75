"""Section boundaries against markdown-it and against hand-worked reStructuredText."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from assets_pkg.corpus.segmentation import split_sections, title_of

LETTERS = st.text("abcXYZ é", min_size=1, max_size=12).map(str.strip).filter(bool)
FENCES = st.sampled_from(["```", "````", "~~~", "~~~~~"])
INSIDE = st.lists(
    st.sampled_from(["# no heading", "", "```", "```python", "~~~", "~~~~", "x = 1"]), max_size=4
)
BLOCKS = st.one_of(
    st.builds(
        lambda fence, info, lines: "\n".join([f"{fence}{info}", *lines, fence]),
        FENCES,
        st.sampled_from(["", "python", " a `tick`"]),
        INSIDE,
    ),
    st.builds(lambda depth, words: f"{'#' * depth} {words}", st.integers(1, 6), LETTERS),
    st.builds(lambda mark, words: f"{words}\n{mark * 5}", st.sampled_from("=-"), LETTERS),
    st.builds(lambda words, more: f"{words} and\nthen {more}.", LETTERS, LETTERS),
    st.builds(lambda words: f"```\n# {words}\n\n{words}\n---\n```", LETTERS),
    st.builds(lambda words: f"    # {words}", LETTERS),
    st.builds(lambda words: f"- {words}", LETTERS),
)


@given(st.lists(BLOCKS, max_size=8))
def test_markdown_headings_are_those_that_markdown_it_sees(blocks: list[str]) -> None:
    text = "Before.\n\n" + "\n\n".join(blocks)
    tokens = MarkdownIt("commonmark").parse(text)
    expected = [
        tokens[i + 1].content
        for i, token in enumerate(tokens)
        if token.type == "heading_open" and token.level == 0
    ]
    found = [section.heading for section in split_sections(text, plain_title=False) if section.heading]
    assert found == expected


@given(st.text("ab#=-~*`\n .Q:?", max_size=80), st.booleans())
def test_sections_cover_the_text_without_gaps(text: str, plain_title: bool) -> None:
    sections = split_sections(text, plain_title=plain_title)
    covered = "".join(text[section.start : section.end] for section in sections)
    assert text.endswith(covered)
    assert not text[: len(text) - len(covered)].strip()
    assert all(section.start <= section.body <= section.end for section in sections)


@pytest.mark.parametrize(
    ("text", "headings"),
    [
        ("=====\nTitle\n=====\n\nText.\n\nPart one\n~~~~~~~~\n\nMore.", ["Title", "Part one"]),
        ("Title\n***\n\nToo short an underline for reStructuredText.", [""]),
        ("One line\nright above an underline\n-----\n", [""]),
        ("===== =====\nA     B\n===== =====\n1     2\n===== =====\n", [""]),
        (
            "Q: What is lift?\nA force.\n\n**Does drag matter?**\nYes.\n",
            ["What is lift?", "Does drag matter?"],
        ),
        ("Q1. Why?\nBecause.", ["Why?"]),
        ("Install it:\n\n```\npip install it\n```\n\nThat is all.", [""]),
        ("Do\n```\nit\n```\n", [""]),
        ("In\n~~~~\n\nA title of reStructuredText.", ["In"]),
    ],
)
def test_other_headings(text: str, headings: list[str]) -> None:
    assert [section.heading for section in split_sections(text, plain_title=False)] == headings


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("# Wings ##\n\nText.", "Wings"),
        ("\n\nWings\n=====\n\nText.", "Wings"),
        ("a study of wings .\n\nthe wing was studied in a wind tunnel .", "a study of wings ."),
        ("a study of wings .\nthe wing was studied without a blank line .", "stem"),
        ("alone on the only line", "stem"),
        ("Two sentences. No title.\n\nText.", "stem"),
        ("- item\n\nText.\n\n## Later\n\nMore.", "Later"),
        ("word " * 60 + "\n\nText.", "stem"),
    ],
)
def test_title(text: str, title: str) -> None:
    assert title_of(text, "stem") == title
