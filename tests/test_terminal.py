"""What a user's texts do to the terminal: nothing. They are shown as they are, with control characters as escapes."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.markup import render
from rich.table import Table

from assets_pkg.cli.common import WORD_JOINER, Terminal, plain
from assets_pkg.cli.progress import show_history, show_plan
from assets_pkg.cli.search import _show, _write_json
from assets_pkg.orchestration.plan import Plan, PlannedAsset
from resources.vector_store.base import Hit
from storage.printable import visible

ESCAPES = {
    "\x1b]0;title\x07": r"\x1b]0;title\x07",
    "\x1b[2J\x1b[31m": r"\x1b[2J\x1b[31m",
    "\x9b2J": r"\x9b2J",
    "50%\r100%": r"50%\r100%",
    "back\x08": r"back\x08",
    "\x00\x7f": r"\x00\x7f",
    "\u202egnp.exe": r"\u202egnp.exe",
    "caf\udce9.txt": r"caf\udce9.txt",
    "left\tright\nbelow": "left\tright\nbelow",
    "ünï — 漢字 می‌خواهم 👩‍🌾": "ünï — 漢字 می‌خواهم 👩‍🌾",
}
MARKUP = [
    "a[/b].txt",
    "[red]x[/red]",
    "[link=https://a.example]x[/link]",
    "[",
    "a\\[b]",
    "x\\",
    "x\\\\",
    "a :bomb: b",
]
HOSTILE = [*ESCAPES, *MARKUP]


@pytest.fixture
def printed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Prints with a command's console as to a terminal, and returns what the terminal is sent."""

    def run(show: Callable[..., Any], *values: Any) -> str:
        console = Terminal(width=400)
        console.file = io.StringIO()
        monkeypatch.setattr("assets_pkg.cli.search.console", console)
        show(*((console, *values) if show is not _show else values))
        return console.file.getvalue()

    return run


def hit(name: str) -> Hit:
    return Hit(0.5, "d_1", name, 1, name, name, name, {"colour": name})


@pytest.mark.parametrize(("text", "shown"), ESCAPES.items())
def test_control_characters_are_shown_as_escapes_and_other_scripts_as_they_are(text: str, shown: str) -> None:
    assert visible(text) == shown


@given(st.text(st.characters(), max_size=40), st.booleans())
def test_any_text_in_markup_is_shown_as_it_is(text: str, one_line: bool) -> None:
    for text_in_markup in (text, f"{text}[/b]", f"[{text}]", f"{text}\\"):
        shown = render(f"[cyan]{plain(text_in_markup, one_line=one_line)}[/] [bold]x[/]", emoji=False)
        expected = visible(text_in_markup)
        if one_line:
            for sign, escape in (("\r", "\\r"), ("\n", "\\n"), ("\t", "\\t")):
                expected = expected.replace(sign, escape)
        assert shown.plain.replace(WORD_JOINER, "") == f"{expected} x".replace(WORD_JOINER, "").translate(
            {7: None, 8: None, 11: None, 12: None, 13: None}
        )
        assert [str(span.style) for span in shown.spans] == ["cyan", "bold"]


@given(st.text(st.characters(), max_size=40))
def test_no_string_acts_on_the_terminal_however_it_is_printed(text: str) -> None:
    console = Terminal(width=100)
    console.file = io.StringIO()
    table = Table(title=plain(text))
    table.add_column(plain(text))
    table.add_row(plain(text))
    console.print(table)
    console.print(text, markup=False)
    console.print(plain(text))
    console.file.getvalue().encode("utf-8")
    assert all(
        sign == "\n" or sign == "\t" or sign.isprintable() or sign > "\u009f"
        for sign in console.file.getvalue()
    )


def test_a_hit_is_shown_with_its_place_and_its_neighbours(printed: Callable[..., str]) -> None:
    texts = ("before", "it", "after")
    places = {"page": 12, "heading_path": "Wings > Spars", "team": "sales"}
    first, found, last = (
        Hit(0.5, "d_1", "a.pdf", number, "Gliders", "Spars", text, places)
        for number, text in enumerate(texts, 1)
    )
    output = printed(_show, {"index": [found]}, {("a.pdf", 2): ([first], [last])})
    assert "1. 0.500  a.pdf #2 (page 12, Wings > Spars)" in output.replace(WORD_JOINER, "")
    assert [line.strip() for line in output.splitlines()[1:]] == ["before", "it", "after"]
    assert printed(_show, {"index": [found]}).rstrip().endswith("(page 12, Wings > Spars)  it")


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hit_of_any_name_is_shown(name: str, printed: Callable[..., str]) -> None:
    output = printed(_show, {"index": [hit(name), hit("after.md")]})
    assert [line[:3] for line in output.splitlines()] == [" 1.", " 2."]
    assert plain_name(name) in output.replace(WORD_JOINER, "")
    assert "after.md #1" in output
    assert not {"\x1b", "\x9b", "\x07", "\x08"} & set(output)


def plain_name(name: str) -> str:
    return f"{visible(name)} #1".replace("\n", "\\n").replace("\t", "\\t")


@pytest.mark.parametrize("name", HOSTILE)
def test_hits_as_json_read_back_the_same_and_send_no_control_characters(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    _write_json({"index": [hit(name)]})
    line = capsys.readouterr().out
    assert json.loads(line)["doc_id"] == name
    assert json.loads(line)["metadata"] == {"colour": name}
    assert not {"\x1b", "\x9b", "\x7f", "\u202e"} & set(line)


@pytest.mark.parametrize("name", HOSTILE)
def test_reasons_and_decisions_of_any_text_are_shown(name: str, printed: Callable[..., str]) -> None:
    first_line = visible(name).partition("\n")[0].partition("\t")[0]
    assert first_line in printed(show_history, [{"version": "abc", "decision": name}])
    plan = Plan((PlannedAsset("raw_corpus", "stale", (name,)),), {}, {})
    assert first_line in printed(show_plan, plan)


def test_a_terminal_has_no_emoji_for_names_between_colons() -> None:
    console = Terminal()
    console.file = io.StringIO()
    console.print("a :bomb: b")
    assert console.file.getvalue() == "a :bomb: b\n"
