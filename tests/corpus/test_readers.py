"""What readers make of documents that real writers wrote: the words, the headings, the place."""

from __future__ import annotations

import csv
import difflib
import re
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from assets_pkg.corpus.readers.decoding import decode
from assets_pkg.corpus.readers.file_document import FileDocument, ReadError, ReadOptions, UnreadPart
from assets_pkg.corpus.readers.html import html_document
from assets_pkg.corpus.readers.office import what_mammoth_reads
from assets_pkg.corpus.readers.registry import read
from assets_pkg.corpus.segmentation import split_sections

from . import office_files
from .office_files import ROWS, SECTIONS, TABLES, TITLE, WITH_SECTIONS


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("documents") / "all"
    office_files.write_folder(made)
    return made


def one(path: Path) -> FileDocument:
    [document] = read(path)
    assert isinstance(document, FileDocument)
    return document


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text)


@pytest.mark.parametrize("name", WITH_SECTIONS)
def test_every_sentence_stands_under_its_heading(name: str, folder: Path) -> None:
    document = one(folder / name)
    sections = {
        section.heading: document.text[section.body : section.end]
        for section in split_sections(document.text)
    }
    for heading, text in SECTIONS:
        if name.endswith(".rtf"):  # without styles
            assert heading in document.text
            assert text in document.text
            continue
        wanted = heading.lower().replace(" ", "_") if name.endswith(".py") else heading
        assert text in " ".join(sections[wanted].split()), document.text
    assert document.warnings == []


@pytest.mark.parametrize("name", ["gliders.docx", "gliders.html"])
def test_no_word_is_added_or_lost(name: str, folder: Path) -> None:
    wanted = words(TITLE + " ".join(f" {heading} {text}" for heading, text in SECTIONS))
    wanted += words("first item Wing Span Nimbus 26 m" if name.endswith("docx") else "Wing Span Nimbus 26 m")
    document = one(folder / name)
    assert words(document.text) == wanted
    assert document.title == TITLE
    assert "| Nimbus | 26 m |" in document.text


def test_steps_that_a_list_style_numbers(tmp_path: Path) -> None:
    office_files.write_docx_with_numbering_style(tmp_path / "steps.docx", ["Open the valve.", "Close it."])
    assert one(tmp_path / "steps.docx").text.split("\n")[:2] == ["1. Open the valve.", "2. Close it."]


def test_a_style_sheet_is_not_read_whole(folder: Path) -> None:
    """Of python-docx's style sheet, 9,000 elements, the library that reads documents gets the few that it uses."""
    with zipfile.ZipFile(folder / "gliders.docx") as archive:
        whole = archive.read("word/styles.xml")
        with zipfile.ZipFile(what_mammoth_reads(archive)) as copy:
            part = copy.read("word/styles.xml")
    assert whole.count(b"<w:style ") > 100
    assert part.count(b"<w:") < whole.count(b"<w:") / 100


@pytest.mark.parametrize(
    "written",
    [
        lambda xml: xml.replace('"Heading1"', '"Heading&#49;"'),
        lambda xml: xml.replace('w:val="Heading1"', "w:val = 'Heading1'"),
        lambda xml: xml.replace("UTF-8", "UTF-16").encode("utf-16"),
    ],
)
def test_a_style_is_found_however_its_name_is_written(
    tmp_path: Path, folder: Path, written: Callable[[str], str | bytes]
) -> None:
    with (
        zipfile.ZipFile(folder / "gliders.docx") as archive,
        zipfile.ZipFile(tmp_path / "a.docx", "w") as copy,
    ):
        for name in archive.namelist():
            data = archive.read(name)
            changed = written(data.decode()) if name == "word/document.xml" else data
            assert (changed == data) == (name != "word/document.xml")
            copy.writestr(name, changed)
    assert one(tmp_path / "a.docx").text == one(folder / "gliders.docx").text


def test_a_pdf_has_its_words_in_order_and_its_pages(folder: Path) -> None:
    document = one(folder / "gliders.pdf")
    written = [
        f"{heading} {text} " + " ".join(f"Remark {line} on section {number}: {text}" for line in range(14))
        for number, (heading, text) in enumerate(SECTIONS, start=1)
    ]
    found, wanted = words(document.text), words(" ".join(written))
    same = difflib.SequenceMatcher(None, wanted, found, autojunk=False).ratio()
    assert same >= 0.98
    assert "Retired draft" not in document.text
    assert "Page" not in document.text
    ends = [*document.pages[1:], len(document.text)]
    pages = [document.text[start:end] for start, end in zip(document.pages, ends, strict=True)]
    assert [page.split("\n")[0] for page in pages] == [f"# {heading}" for heading, _ in SECTIONS]


def test_slides_are_pages_with_their_notes(folder: Path) -> None:
    document = one(folder / "gliders.pptx")
    assert document.title == TITLE
    assert [document.text[start:].split("\n")[0] for start in document.pages] == [
        f"## {h}" for h, _ in SECTIONS
    ]
    assert "Say of Materials: it matters." in document.text[document.pages[2] :]


def test_what_is_around_a_page_is_left_out(folder: Path) -> None:
    document = one(folder / "gliders.html")
    assert document.metadata == {"lang": "en"}
    for around in ("Home", "Menu", "Imprint", "never seen", "alert", "color"):
        assert around not in document.text


def test_marks_inside_a_word_do_not_split_it() -> None:
    page = "<html><body><h1>Macro is_<wbr>riscv, the <b>f</b>irst<br>of two</h1><p>Text.</p></body></html>"
    assert html_document(page).title == "Macro is_riscv, the first of two"


@pytest.mark.parametrize(
    ("meant", "text"),
    [
        ({}, "ABC wings glide far"),
        ({"A": "00e9", "B": "2019"}, "é’C wings glide far"),
        ({"B": "00660069"}, "AfiC wings glide far"),
        ({"A": "d83dde00"}, "😀BC wings glide far"),
        ({"A": "0093", "B": "0002"}, "\x93C wings glide far"),
        ({"C": "0000"}, "AB wings glide far"),
    ],
)
def test_characters_of_a_pdf_are_those_that_its_font_means(
    tmp_path: Path, meant: dict[str, str], text: str
) -> None:
    office_files.write_pdf_with_font(tmp_path / "a.pdf", meant)
    assert one(tmp_path / "a.pdf").text.strip() == text


def test_leaders_of_a_table_of_contents_are_left_out(tmp_path: Path) -> None:
    from reportlab.pdfgen.canvas import Canvas

    canvas = Canvas(str(tmp_path / "contents.pdf"))
    canvas.drawString(72, 600, "2.1 Syntax . . . . . . . . . . 12")
    canvas.drawString(72, 500, "Wait... what. . . is it")
    canvas.save()
    (document,) = read(tmp_path / "contents.pdf")
    assert isinstance(document, FileDocument)
    assert document.text.strip().split("\n\n") == ["2.1 Syntax 12", "Wait... what. . . is it"]


def test_elements_nested_too_deep_are_read_as_plain_text() -> None:
    document = html_document("<div>" * 2000 + "<p>At the bottom.</p>" + "</div>" * 2000)
    assert "At the bottom." in document.text


def test_code_keeps_its_lines_and_comments_are_no_headings(folder: Path) -> None:
    document = one(folder / "gliders.py")
    assert [s.heading for s in split_sections(document.text) if s.heading] == [
        "wing_design",
        "stall_behaviour",
        "materials",
    ]
    assert '    """A wing stalls' in document.text


@pytest.mark.parametrize("name", TABLES)
def test_each_row_of_a_table_is_a_document(name: str, folder: Path) -> None:
    documents = [item for item in read(folder / name) if isinstance(item, FileDocument)]
    prefix = "Gliders/" if name.endswith("xlsx") else ""
    assert [document.part for document in documents] == [f"{prefix}{row['id']}" for row in ROWS]
    assert [document.text for document in documents] == [row["text"] for row in ROWS]
    assert [document.title for document in documents] == [row["title"] for row in ROWS]
    assert [document.metadata["year"] for document in documents] == [1990, 1957]
    assert [document.metadata["code"] for document in documents] == ["007", "12"]
    first = {"jsonl": 1, "parquet": 1}.get(name.partition(".")[2], 2)
    assert [document.metadata["row"] for document in documents] == [first, first + 1]


def test_long_fields_are_read_and_the_limit_of_others_stays(tmp_path: Path) -> None:
    limit = csv.field_size_limit()
    (tmp_path / "long.csv").write_text(f'id,text\n1,"{"x" * (limit + 1)}"\n', "utf-8")
    (document,) = read(tmp_path / "long.csv")
    assert isinstance(document, FileDocument)
    assert "x" * (limit + 1) in document.text
    assert csv.field_size_limit() == limit


def test_columns_are_chosen_by_name(folder: Path) -> None:
    options = ReadOptions(text_columns=["title", "text"], id_column="code")
    [first, second] = read(folder / "rows.csv", options)
    assert isinstance(first, FileDocument)
    assert first.text == "title: Nimbus\ntext: The Nimbus has a span of twenty-six metres.\n"
    assert (first.part, first.metadata) == ("007", {"id": "n4", "year": 1990, "row": 2})
    [first, second] = read(folder / "rows.csv", ReadOptions(text_columns=["summary"]))
    assert isinstance(second, UnreadPart)
    assert second.detail == "it has no column 'summary' (its columns: id, title, text, year, code)"


def test_a_table_without_a_text_column_is_all_text(tmp_path: Path) -> None:
    (tmp_path / "prices.csv").write_text("Teil;Preis\nSchraube;1,20\n\nMutter;0,80;neu\n", "cp1252")
    documents = [item for item in read(tmp_path / "prices.csv") if isinstance(item, FileDocument)]
    assert [(d.part, d.text) for d in documents] == [
        ("2", "Teil: Schraube\nPreis: 1,20\n"),
        ("4", "Teil: Mutter\nPreis: 0,80\ncolumn 3: neu\n"),
    ]


def test_a_damaged_row_is_named_and_the_others_are_read(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"text": "one"}\n{"text": \n[1]\n{"text": "four"}\n')
    found = list(read(tmp_path / "rows.jsonl"))
    assert [item.part for item in found] == ["1", "2", "3", "4"]
    assert [item.detail for item in found if isinstance(item, UnreadPart)] == [
        "not JSON in UTF-8",
        "not a JSON object",
    ]


GERMAN = "Die Flügel des Segelflugzeugs müssen größer sein als die Räder, das weiß schon jedes Kind. "
RUSSIAN = "Крыло планера должно быть длинным и узким, чтобы он летел далеко с малой высоты. "
JAPANESE = "グライダーの翼は細長く、低い高度からでも遠くまで飛ぶことができます。"


@pytest.mark.parametrize(
    ("text", "encoding", "is_detected"),
    [
        (GERMAN, "utf-8", False),
        (GERMAN, "utf-8-sig", False),
        (JAPANESE, "utf-16", False),
        (GERMAN, "utf-32", False),
        (GERMAN, "cp1252", True),
        (RUSSIAN, "cp1251", True),
        (JAPANESE, "shift_jis", True),
    ],
)
def test_the_encoding_is_found(text: str, encoding: str, is_detected: bool) -> None:
    found, warnings = decode((text * 3).encode(encoding))
    assert found == text * 3
    assert bool(warnings) is is_detected


def test_a_level_that_is_no_number_is_the_first(folder: Path, tmp_path: Path) -> None:
    with (
        zipfile.ZipFile(folder / "gliders.odt") as right,
        zipfile.ZipFile(tmp_path / "odd.odt", "w") as odd,
    ):
        for name in right.namelist():
            odd.writestr(name, re.sub(rb'outline-level="\d"', b'outline-level="f"', right.read(name)))
    assert f"# {SECTIONS[0][0]}\n" in one(tmp_path / "odd.odt").text


def test_code_without_a_definition_is_read_whole(tmp_path: Path) -> None:
    script = "import os\n\nprint(os.sep)\n"
    (tmp_path / "script.py").write_text(script)
    assert one(tmp_path / "script.py").text == f"```py\n{script}```\n"


def test_a_file_is_read_as_what_it_is(folder: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "gliders.docx"
    wrong.write_bytes((folder / "gliders.pdf").read_bytes())
    document = one(wrong)
    assert SECTIONS[0][1] in document.text
    assert document.warnings == ["its name says docx, but it is pdf: read as pdf"]
    page = tmp_path / "gliders.pdf"
    page.write_bytes((folder / "gliders.html").read_bytes())
    assert SECTIONS[0][1] in one(page).text


def test_scanned_pages_are_named(folder: Path, tmp_path: Path) -> None:
    office_files.write_picture_pdf(tmp_path / "scan.pdf")
    with pytest.raises(ReadError, match="none of its 2 pages has a text layer: run OCR on it first"):
        list(read(tmp_path / "scan.pdf"))
    office_files.write_picture_pdf(
        tmp_path / "part.pdf", texts=["Text of a page.", "", "", "And of another."]
    )
    document = one(tmp_path / "part.pdf")
    assert document.text == "Text of a page.\n\nAnd of another.\n\n"
    assert document.warnings == ["pages 2-3 have no text layer (scanned, or a picture): run OCR on it"]
    assert document.pages == [0, 17, 17, 17]


def test_a_library_that_is_not_installed_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pypdfium2", None)
    with pytest.raises(ReadError, match=r"pip install 'retune-embed\[documents\]'"):
        list(read(folder / "gliders.pdf"))
