"""Passages know their page and the headings above them."""

from __future__ import annotations

import json

import pytest

from assets_pkg.corpus.passages import split_passages
from assets_pkg.corpus.segmentation import heading_paths, split_sections
from assets_pkg.corpus.sources import read_corpus
from storage.artifacts import Corpus, Passages

from .making import chunks
from .office_files import SECTIONS, TITLE, write_docx, write_pdf, write_xlsx
from .test_folder import LONG, settings


def paths_of(text: str) -> list[list[str]]:
    return heading_paths(text, split_sections(text))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("# A\n\nx\n\n## B\n\ny\n\n### C\n\n## D\n", [["A"], ["A", "B"], ["A", "B", "C"], ["A", "D"]]),
        ("before\nit\n\n## B\n\ny\n\n# A\n\nz\n", [[], ["B"], ["A"]]),
        ("Top\n===\n\nx\n\nSub\n---\n\ny\n\nNext\n====\n\nz\n", [["Top"], ["Top", "Sub"], ["Next"]]),
        ("# A\n\nx\n\nQ: Why?\n\ny\n\nQ: How?\n\nz\n", [["A"], ["A", "Why?"], ["A", "How?"]]),
    ],
)
def test_a_section_stands_under_the_headings_above_it(text: str, expected: list[list[str]]) -> None:
    assert paths_of(text) == expected


@pytest.fixture(scope="module")
def passages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[tuple[str, dict[str, object]]]]:
    folder = tmp_path_factory.mktemp("placed")
    (folder / "in").mkdir()
    write_pdf(folder / "in" / "a.pdf")
    write_docx(folder / "in" / "b.docx")
    write_xlsx(folder / "in" / "c.xlsx")
    (folder / "in" / "d.md").write_text(f"# Wings\n\n## Spars\n\n{LONG}")
    for name in ("corpus", "passages"):
        (folder / name).mkdir()
    read_corpus(settings(folder / "in", file_extensions=None), folder / "corpus")
    split_passages(Corpus(folder / "corpus", "raw_corpus", "v"), chunks(3), folder / "passages")
    found: dict[str, list[tuple[str, dict[str, object]]]] = {}
    for passage in Passages(folder / "passages", "passages", "v").passages():
        name = passage.doc_id.partition("#")[0]
        found.setdefault(name, []).append((passage.text, json.loads(passage.metadata)))
    return found


def test_a_pdfs_passages_have_page_and_headings(
    passages: dict[str, list[tuple[str, dict[str, object]]]],
) -> None:
    assert {place["page"] for _, place in passages["a.pdf"]} == {1, 2, 3}
    for text, place in passages["a.pdf"]:
        assert isinstance(place["page"], int)
        heading, sentence = SECTIONS[place["page"] - 1]
        assert place["heading_path"] == heading
        assert sentence in " ".join(text.split())


def test_a_word_documents_passages_have_the_whole_path(
    passages: dict[str, list[tuple[str, dict[str, object]]]],
) -> None:
    assert [place for _, place in passages["b.docx"][:3]] == [
        {"heading_path": f"{TITLE} > {heading}"} for heading, _ in SECTIONS
    ]


def test_rows_have_sheet_and_row_and_plain_text_is_as_before(
    passages: dict[str, list[tuple[str, dict[str, object]]]],
) -> None:
    assert passages["c.xlsx"][1][1] == {"row": 3, "sheet": "Gliders", "year": 1957, "code": "12"}
    assert passages["d.md"][0][1] == {}
