"""Metadata as the UI shows it: few digits, short cells, columns that fit the page."""

from __future__ import annotations

import base64
import re
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from assets_pkg.orchestration.metadata import in_words, numbers, picture, table
from storage.printable import visible

BREAK = "\u200b"

GFM_ADDRESSES = [
    re.compile(r"(https?://|www(?=\.))([-.\w]+)([^ \t\r\n]*)", re.IGNORECASE | re.ASCII),
    re.compile(r"([-.\w+]+)@([-\w]+(?:\.[-\w]+)+)", re.ASCII),
]
"""What becomes a link in text after the Markdown in it was read: the patterns of mdast-util-gfm-autolink-literal, with
which Dagster's pages read Markdown."""

HOSTILE = [
    "![x](https://tracker.example/p.png)",
    "![x][1] [1]: https://tracker.example/p.png",
    "[click](javascript:alert)",
    "<img src=https://tracker.example/p.png onerror=alert(1)>",
    "<https://a.example> <b@a.example>",
    "https://a.example/x?y=z HTTP://A.example ftp://a.example",
    "see www.a.example, WWW.a.example or write to some.one+x@mail.a.example.",
    "**bold** __bold__ _it_ *it* ~~gone~~ ~gone~ `code` ``co`de``",
    "a\\|b | c \\",
    "\\![x](y) \\\\[x](y)",
    "&lt;b&gt; &#33;&#91;x](y)",
    "[^1] $x$ <!-- gone --> <b>",
    "\x1b[31mred\x00",
    "| --- | --- |",
    "# head",
    "snake_case_name __init__ _private NDCG@10 f(x)[0]",
    "x" * 39 + "!" + "[" * 90 + "](https://a.example)",
]


def test_floats_are_rounded_to_six_digits_and_other_values_left_alone() -> None:
    shown = numbers(
        {"share": 0.7990875069621128, "tiny": 1.23456789e-9, "count": 22713728, "name": "x", "no": None}
    )
    assert {name: value.value for name, value in shown.items()} == {
        "share": 0.799088,
        "tiny": 1.23457e-9,
        "count": 22713728,
        "name": "x",
    }


def test_a_table_is_markdown_that_no_cell_breaks_out_of() -> None:
    markdown = table([{"left": "a|b", "text": "one\ntwo"}, {"left": 0.5, "text": ""}]).md_str
    assert markdown is not None
    head, rule, first, second = markdown.splitlines()
    assert head == "| left | text |"
    assert rule == "| --- | --- |"
    assert first == "| a\\|b | one two |"
    assert second == "| 0.5000 |  |"
    assert table([]).md_str == "(none)"


def shown(markdown: str) -> list[list[str]]:
    """The rows of the only thing on the page, a table of plain texts."""
    tokens = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(markdown)
    assert tokens[0].type == "table_open"
    assert [token.type for token in tokens].count("table_close") == 1
    assert tokens[-1].type == "table_close"
    rows: list[list[str]] = []
    for token in tokens:
        if token.type == "tr_open":
            rows.append([])
        if token.type == "inline":
            assert {child.type for child in token.children or []} <= {"text"}, token.content
            rows[-1].append("".join(child.content for child in token.children or []))
    return rows


def without_breaks(cell: str) -> str:
    return cell.replace(BREAK, "").strip()


def check_cells(text: str) -> None:
    expected = visible(" ".join(text.split()))
    rows = shown(table([{text: "1", "b": text}, {text: text, "b": "2"}], longest=10_000).md_str or "")
    assert [[without_breaks(cell) for cell in row] for row in rows] == [
        [without_breaks(cell) for cell in row] for row in ([expected, "b"], ["1", expected], [expected, "2"])
    ]
    assert not [cell for row in rows for cell in row for pattern in GFM_ADDRESSES if pattern.search(cell)]


@pytest.mark.parametrize("text", HOSTILE)
def test_a_cell_is_plain_text_whatever_it_holds(text: str) -> None:
    check_cells(text)
    rows = shown(table([{"a": text}]).md_str or "")
    assert len(rows[1][0].replace(BREAK, "")) <= 120 + text.count("\x1b") * 3 + text.count("\x00") * 3


@given(
    st.text(
        st.sampled_from(list("\\`*_{}[]()<>#+-.!|~&$^=:/@ wahtps0;'\"\n\u200bé")), min_size=1, max_size=60
    )
)
@example("a\\")
@example(" \u200b")
def test_a_cell_of_any_signs_is_plain_text(text: str) -> None:
    check_cells(text + "x")
    check_cells("x" + text)


def test_metric_names_and_identifiers_are_left_alone() -> None:
    row = {"metric": "NDCG@10", "asset": "mined_train_set", "share": 0.5, "path": "docs/a-b.md (1)"}
    markdown = table([row]).md_str or ""
    assert markdown.splitlines()[2] == "| NDCG@10 | mined_train_set | 0.5000 | docs/a-b.md (1) |"


def test_a_picture_keeps_its_one_image_whatever_its_name(tmp_path: Path) -> None:
    path = tmp_path / "x](https:)![y.png"
    path.write_bytes(b"PNG")
    (paragraph,) = [
        t for t in MarkdownIt("commonmark").parse(picture(path).md_str or "") if t.type == "inline"
    ]
    (image,) = paragraph.children or []
    assert image.type == "image"
    assert image.attrs["src"] == "data:image/png;base64," + base64.b64encode(b"PNG").decode()


def test_a_long_cell_is_cut_and_a_long_word_may_be_broken() -> None:
    (cell,) = (
        line.strip("| ")
        for line in (table([{"text": "(" + "name," * 40 + ")"}]).md_str or "").splitlines()[2:]
    )
    assert len(cell.replace(BREAK, "")) == 120
    assert cell.endswith("...")
    assert max(len(part) for part in cell.split(BREAK)) <= 40
    (short,) = (
        line.strip("| ") for line in (table([{"text": "a few short words"}]).md_str or "").splitlines()[2:]
    )
    assert short == "a few short words"


def test_figures_are_said_in_a_line() -> None:
    figures = {
        "near_answers": 3,
        "share": 0.123456789,
        "limit": 1e-12,
        "rows": [1],
        "what_to_do": "add documents",
    }
    assert in_words(figures) == "near answers: 3, share: 0.1235, limit: 1e-12, what to do: add documents"
