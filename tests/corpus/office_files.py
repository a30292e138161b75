"""Documents of many types, written by the libraries that people's programs use."""

from __future__ import annotations

import csv
import json
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

SECTIONS = (
    ("Wing design", "The aspect ratio of a glider's wing decides how far it flies from a given height."),
    (
        "Stall behaviour",
        "A wing stalls when the flow separates from its upper surface at a high angle of attack.",
    ),
    (
        "Materials",
        "Carbon fibre replaced wood and fabric because it keeps its shape under load for many years.",
    ),
)
TITLE = "Handbook of gliders"
MIMETYPES = {"odt": "application/vnd.oasis.opendocument.text", "epub": "application/epub+zip"}


def write_pdf(path: Path, sections: Sequence[tuple[str, str]] = SECTIONS, *, filler: int = 14) -> None:
    """A page for each section, with a running header, page numbers and an outline."""
    from reportlab.lib.pagesizes import A4
    from reportlab.lib.styles import getSampleStyleSheet
    from reportlab.platypus import PageBreak, Paragraph, SimpleDocTemplate

    styles = getSampleStyleSheet()

    def decorate(canvas: Any, document: Any) -> None:
        canvas.drawString(72, A4[1] - 40, "Retired draft, do not copy")
        canvas.drawString(290, 30, f"Page {document.page} of {len(sections)}")

    story: list[Any] = []
    for number, (heading, text) in enumerate(sections, start=1):
        story.append(Paragraph(heading, styles["Heading1"]))
        story.append(Paragraph(text, styles["BodyText"]))
        for line in range(filler):
            story.append(Paragraph(f"Remark {line} on section {number}: {text}", styles["BodyText"]))
        story.append(PageBreak())
    SimpleDocTemplate(str(path), pagesize=A4, title=TITLE).build(
        story, onFirstPage=decorate, onLaterPages=decorate
    )


def write_picture_pdf(path: Path, texts: Sequence[str] = ("", "")) -> None:
    """Pages with a picture, as a scanner makes them, some with a text layer."""
    from reportlab.pdfgen.canvas import Canvas

    canvas = Canvas(str(path))
    for text in texts:
        canvas.rect(100, 100, 300, 300, fill=1)
        canvas.drawString(100, 500, text)
        canvas.showPage()
    canvas.save()


def write_docx(path: Path, sections: Sequence[tuple[str, str]] = SECTIONS) -> None:
    from docx import Document

    document = Document()
    document.core_properties.title = TITLE
    document.sections[0].header.paragraphs[0].text = "Retired draft, do not copy"
    document.add_heading(TITLE, 0)
    for heading, text in sections:
        document.add_heading(heading, 1)
        document.add_paragraph(text)
    document.add_paragraph("first item", style="List Bullet")
    table = document.add_table(rows=2, cols=2)
    for cell, text in zip(
        [cell for row in table.rows for cell in row.cells], "Wing Span Nimbus 26", strict=False
    ):
        cell.text = text
    for cell, text in zip(
        [cell for row in table.rows for cell in row.cells], ("Wing", "Span", "Nimbus", "26 m"), strict=True
    ):
        cell.text = text
    document.save(str(path))


WORD_ELEMENT = """
<w:{element} xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main" {attributes}>{content}</w:{element}>
"""


def write_docx_with_numbering_style(path: Path, steps: Sequence[str]) -> None:
    """Steps that are numbered by a style, which Word calls a list style."""
    from docx import Document
    from docx.oxml import parse_xml

    def element(name: str, attributes: str, content: str) -> Any:
        return parse_xml(WORD_ELEMENT.format(element=name, attributes=attributes, content=content))

    document = Document()
    numbers = document.part.numbering_part.element
    level = '<w:lvl w:ilvl="0"><w:numFmt w:val="decimal"/></w:lvl>'
    contents = {90: level, 91: '<w:numStyleLink w:val="Steps"/>'}
    for number, content in contents.items():
        numbers.insert(0, element("abstractNum", f'w:abstractNumId="{number}"', content))
        numbers.append(element("num", f'w:numId="{number}"', f'<w:abstractNumId w:val="{number}"/>'))
    numbered_as_90 = '<w:name w:val="Steps"/><w:pPr><w:numPr><w:numId w:val="90"/></w:numPr></w:pPr>'
    document.styles.element.append(element("style", 'w:type="numbering" w:styleId="Steps"', numbered_as_90))
    for step in steps:
        properties = document.add_paragraph(step)._p.get_or_add_pPr()
        properties.append(element("numPr", "", '<w:ilvl w:val="0"/><w:numId w:val="91"/>'))
    document.save(str(path))


def write_pptx(path: Path, sections: Sequence[tuple[str, str]] = SECTIONS) -> None:
    from pptx import Presentation

    presentation = Presentation()
    presentation.core_properties.title = TITLE
    for heading, text in sections:
        slide = presentation.slides.add_slide(presentation.slide_layouts[1])
        slide.shapes.title.text = heading
        slide.placeholders[1].text = text
        slide.notes_slide.notes_text_frame.text = f"Say of {heading}: it matters."
    presentation.save(str(path))


ROWS = (
    {
        "id": "n4",
        "title": "Nimbus",
        "text": "The Nimbus has a span of twenty-six metres.",
        "year": 1990,
        "code": "007",
    },
    {
        "id": "k8",
        "title": "Ka 8",
        "text": 'The Ka 8, "the simple one",\nflies slowly.',
        "year": 1957,
        "code": "12",
    },
)


def write_xlsx(path: Path) -> None:
    from openpyxl import Workbook

    book = Workbook()
    sheet: Any = book.active
    sheet.title = "Gliders"
    sheet.append(list(ROWS[0]))
    for row in ROWS:
        sheet.append(list(row.values()))
    book.create_sheet("Empty")
    book.save(str(path))


def write_csv(path: Path, delimiter: str = ",") -> None:
    with path.open("w", encoding="utf-8", newline="") as out:
        writer = csv.DictWriter(out, list(ROWS[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(ROWS)


def write_jsonl(path: Path) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS), "utf-8")


def write_parquet(path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(list(ROWS)), path)


def write_html(path: Path, sections: Sequence[tuple[str, str]] = SECTIONS, lang: str = "en") -> None:
    body = "".join(f"<h2>{heading}</h2><p>{text}</p>" for heading, text in sections)
    path.write_text(
        f"<!doctype html><html lang={lang}><head><meta charset=utf-8><title>{TITLE} | Shop</title>"
        "<style>p{color:red}</style></head><body><header>Home About</header><nav><a href=/>Menu</a></nav>"
        f"<main><h1>{TITLE}</h1>{body}<table><tr><th>Wing</th><th>Span</th></tr><tr><td>Nimbus</td><td>26 m</td></tr>"
        "</table><p hidden>never seen</p><script>alert(1)</script></main><footer>Imprint</footer></body></html>",
        "utf-8",
    )


def write_rtf(path: Path, sections: Sequence[tuple[str, str]] = SECTIONS) -> None:
    body = "\\par\n".join(part for section in sections for part in section)
    path.write_bytes(("{\\rtf1\\ansi " + body + "}").encode("ascii"))


def write_odt(path: Path, sections: Sequence[tuple[str, str]] = SECTIONS) -> None:
    names = "".join(
        f'xmlns:{name}="urn:oasis:names:tc:opendocument:xmlns:{name}:1.0" '
        for name in ("office", "text", "table")
    )
    body = "".join(
        f'<text:h text:outline-level="2">{heading}</text:h><text:p>{text}</text:p>'
        for heading, text in sections
    )
    content = (
        f"<office:document-content {names}><office:body><office:text>{body}"
        "<text:list><text:list-item><text:p>first<text:s text:c='2'/>item</text:p></text:list-item></text:list>"
        "</office:text></office:body></office:document-content>"
    )
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("mimetype", MIMETYPES["odt"])
        archive.writestr("content.xml", content)


def write_epub(path: Path, sections: Sequence[tuple[str, str]] = SECTIONS) -> None:
    items = "".join(f'<item id="c{n}" href="c{n}.xhtml"/>' for n in range(len(sections)))
    spine = "".join(f'<itemref idref="c{n}"/>' for n in range(len(sections)))
    package = (
        '<package xmlns="http://www.idpf.org/2007/opf" xmlns:dc="http://purl.org/dc/elements/1.1/"><metadata>'
        f"<dc:title>{TITLE}</dc:title><dc:language>en</dc:language></metadata><manifest>{items}</manifest>"
        f"<spine>{spine}</spine></package>"
    )
    container = (
        '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>'
        '<rootfile full-path="OEBPS/book.opf"/></rootfiles></container>'
    )
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("mimetype", MIMETYPES["epub"])
        archive.writestr("META-INF/container.xml", container)
        archive.writestr("OEBPS/book.opf", package)
        for number, (heading, text) in enumerate(sections):
            page = f"<html><body><h2>{heading}</h2><p>{text}</p></body></html>"
            archive.writestr(f"OEBPS/c{number}.xhtml", page)


def write_tex(path: Path, sections: Sequence[tuple[str, str]] = SECTIONS) -> None:
    body = "".join(f"\\section{{{heading}}}\n{text} % a remark\n" for heading, text in sections)
    path.write_text(
        f"\\documentclass{{article}}\\title{{{TITLE}}}\n\\begin{{document}}\n\\maketitle\n{body}\\end{{document}}\n"
    )


def write_adoc(path: Path, sections: Sequence[tuple[str, str]] = SECTIONS) -> None:
    path.write_text(f"= {TITLE}\n\n" + "".join(f"== {heading}\n\n{text}\n\n" for heading, text in sections))


def write_rst(path: Path, sections: Sequence[tuple[str, str]] = SECTIONS) -> None:
    path.write_text(
        f"{TITLE}\n{'=' * 30}\n\n" + "".join(f"{h}\n{'-' * 20}\n\n{text}\n\n" for h, text in sections)
    )


def write_code(path: Path, sections: Sequence[tuple[str, str]] = SECTIONS) -> None:
    parts = [
        f'# a remark, no heading\n\ndef {heading.lower().replace(" ", "_")}():\n    """{text}"""\n\n'
        for heading, text in sections
    ]
    path.write_text("import os\n\n" + "\n".join(parts))


WITH_SECTIONS: dict[str, Callable[[Path], None]] = {
    "gliders.pdf": write_pdf,
    "gliders.docx": write_docx,
    "gliders.pptx": write_pptx,
    "gliders.html": write_html,
    "gliders.rtf": write_rtf,
    "gliders.odt": write_odt,
    "gliders.epub": write_epub,
    "gliders.tex": write_tex,
    "gliders.adoc": write_adoc,
    "gliders.rst": write_rst,
    "gliders.py": write_code,
}
TABLES: dict[str, Callable[[Path], None]] = {
    "rows.xlsx": write_xlsx,
    "rows.csv": write_csv,
    "rows.tsv": lambda path: write_csv(path, "\t"),
    "rows.jsonl": write_jsonl,
    "rows.parquet": write_parquet,
}


def write_folder(folder: Path) -> None:
    """One file of each type."""
    folder.mkdir(parents=True)
    for name, write in {**WITH_SECTIONS, **TABLES}.items():
        write(folder / name)


def write_pdf_with_font(path: Path, meant: dict[str, str]) -> None:
    """The lines ``ABC wings`` and ``glide far``, some letters of which mean others, each given as UTF-16 in hex."""
    pairs = " ".join(f"<{ord(letter):02x}> <{units}>" for letter, units in meant.items())
    cmap = f"begincmap 1 begincodespacerange <00> <ff> endcodespacerange {len(meant)} beginbfchar {pairs} endbfchar"
    content = "BT /F1 12 Tf 72 700 Td (ABC wings) Tj 0 -14 Td (glide far) Tj ET"
    page = "/Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 4 0 R"
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        "<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        f"<< {page} /Resources << /Font << /F1 5 0 R >> >> >>",
        f"<< /Length {len(content)} >> stream\n{content}\nendstream",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /ToUnicode 6 0 R >>",
        f"<< /Length {len(cmap)} >> stream\n{cmap}\nendstream",
    ]
    data, places = "%PDF-1.4\n", list[int]()
    for number, each in enumerate(objects, start=1):
        places.append(len(data))
        data += f"{number} 0 obj\n{each}\nendobj\n"
    table = "".join(f"{place:010} 00000 n \n" for place in places)
    end = f"trailer << /Size 7 /Root 1 0 R >>\nstartxref\n{len(data)}\n%%EOF\n"
    path.write_text(f"{data}xref\n0 7\n0000000000 65535 f \n{table}{end}")
