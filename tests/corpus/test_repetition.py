"""Menus, disclaimers and copies of documents are left out of the passages, and named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from assets_pkg.corpus.passages import REPEATED_FILE, split_passages
from assets_pkg.corpus.repetition import find_repetition
from storage.artifacts import Corpus, Passage, Passages

from .making import chunks, write_corpus

MENU = "- Home\n- Our products\n\n"
DISCLAIMER = "All rights reserved, no warranty is given for any purpose.\n"


def page(number: int) -> str:
    return f"# Part {number}\n\n{MENU}The pump {number} is checked every {number + 2} days by a fitter.\n\n{DISCLAIMER}"


def split(corpus: Corpus, folder: Path, *overrides: str) -> tuple[list[Passage], dict[str, Any]]:
    folder.mkdir()
    split_passages(corpus, chunks(5, *overrides), folder)
    made = Passages(folder, "passages", "v")
    return list(made.passages()), made.summary()


def test_lines_of_many_pages_are_left_out_and_listed(tmp_path: Path) -> None:
    texts = {f"{number:02}.html": page(number) for number in range(8)}
    corpus = write_corpus(tmp_path / "corpus", texts)
    passages, summary = split(corpus, tmp_path / "out")
    assert [each.text for each in passages] == [
        f"# Part {number}\n\n\nThe pump {number} is checked every {number + 2} days by a fitter."
        for number in range(8)
    ]
    lines = [json.loads(line) for line in (tmp_path / "out" / REPEATED_FILE).read_text().splitlines()]
    assert sorted(line["line"] for line in lines) == ["- Home", "- Our products", DISCLAIMER.strip()]
    assert {line["documents"] for line in lines} == {8}
    assert summary["repeated_lines"] == 3
    assert summary["repeated_characters"] == 8 * (len(MENU) - 1 + len(DISCLAIMER))
    kept, summary = split(corpus, tmp_path / "all", "passages.leave_out_repeated=false")
    assert DISCLAIMER.strip() in kept[0].text
    assert "repeated_lines" not in summary


def test_plain_text_and_rows_keep_their_lines(tmp_path: Path) -> None:
    texts = {f"{number}.md": page(number) for number in range(8)}
    texts |= {f"a.csv#{number}": page(number) for number in range(8)}
    corpus = write_corpus(tmp_path / "corpus", texts)
    assert find_repetition(corpus).lines == {}
    passages, summary = split(corpus, tmp_path / "out")
    assert all("Our products" in each.text for each in passages)
    assert "repeated_lines" not in summary


def test_a_line_of_few_documents_stays(tmp_path: Path) -> None:
    texts = {f"{number:02}.html": page(number) if number < 5 else f"Text {number}.\n" for number in range(20)}
    assert find_repetition(write_corpus(tmp_path / "corpus", texts)).lines == {}


def test_copies_are_merged_and_their_names_kept(tmp_path: Path) -> None:
    texts = {
        "a.pdf": page(1),
        "b.pdf": page(2),
        "sub/a copy.pdf": page(1),
        "c.txt": page(3),
        "d.txt": page(3),
    }
    passages, summary = split(write_corpus(tmp_path / "corpus", texts), tmp_path / "out")
    assert sorted({each.doc_id for each in passages}) == ["a.pdf", "b.pdf", "c.txt", "d.txt"]
    of_first = next(each for each in passages if each.doc_id == "a.pdf")
    assert json.loads(of_first.metadata)["also_in"] == ["sub/a copy.pdf"]
    assert summary["documents_merged"] == 1


def test_pages_stay_right_when_lines_are_left_out(tmp_path: Path) -> None:
    texts = {
        f"{number:02}.pdf": f"{DISCLAIMER}\nFirst of {number}.\n\n{DISCLAIMER}\nSecond of {number}.\n"
        for number in range(8)
    }
    corpus = write_corpus(tmp_path / "corpus", texts)
    repetition = find_repetition(corpus)
    document = next(corpus.documents())
    shorter, pages = repetition.without(document, [0, document.text.rindex(DISCLAIMER)])
    assert shorter.text == "\nFirst of 0.\n\n\nSecond of 0.\n"
    assert [shorter.text[start:].split("\n")[1] for start in pages] == ["First of 0.", "Second of 0."]
