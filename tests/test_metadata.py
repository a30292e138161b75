"""Metadata as the UI shows it: few digits, short cells, columns that fit the page."""

from __future__ import annotations

from assets_pkg.orchestration.metadata import numbers, table

BREAK = "\u200b"


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


def test_a_long_cell_is_cut_and_a_long_word_may_be_broken() -> None:
    (cell,) = (
        line.strip("| ") for line in table([{"text": "(" + "name," * 40 + ")"}]).md_str.splitlines()[2:]
    )
    assert len(cell.replace(BREAK, "")) == 120
    assert cell.endswith("...")
    assert max(len(part) for part in cell.split(BREAK)) <= 40
    (short,) = (line.strip("| ") for line in table([{"text": "a few short words"}]).md_str.splitlines()[2:])
    assert short == "a few short words"
