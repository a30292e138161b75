"""Word processing and presentations: DOCX, PPTX, ODT, ODP, RTF, EPUB."""

from __future__ import annotations

import io
import posixpath
import re
import zipfile
from collections.abc import Iterable, Iterator, Set
from contextlib import suppress
from copy import deepcopy
from pathlib import Path
from typing import Any, cast
from urllib.parse import unquote

from assets_pkg.corpus.readers.archives import open_archive, parse_xml
from assets_pkg.corpus.readers.decoding import decode
from assets_pkg.corpus.readers.file_document import (
    FileDocument,
    FileItem,
    ReadError,
    ReadOptions,
    joined_pages,
)
from assets_pkg.corpus.readers.html import html_document, markdown_of

_STYLES = "p[style-name='Title'] => div.title:fresh\np[style-name='Subtitle'] => p:fresh"
_STYLE_SHEET = "word/styles.xml"
_OTHER_STYLE_SHEET = "word/stylesWithEffects"
_NUMBERING = "word/numbering.xml"
_ATTRIBUTE = re.compile(rb"""=\s*["']([^"'<]*)["']""")
_PLAIN_NAME = re.compile(r"[\w .-]+", re.ASCII)
_TITLE = re.compile(r'<div class="title">(.*?)</div>')
_HEADING_TAG = re.compile(r"(</?h)([0-6])>")
_DC = "{http://purl.org/dc/elements/1.1/}"
_TEXT = "{urn:oasis:names:tc:opendocument:xmlns:text:1.0}"
_TABLE = "{urn:oasis:names:tc:opendocument:xmlns:table:1.0}"
_DRAW = "{urn:oasis:names:tc:opendocument:xmlns:drawing:1.0}"
_NOT_READ = {f"{_TEXT}tracked-changes", f"{_TEXT}table-of-content"}


def read_docx(path: Path, options: ReadOptions) -> Iterator[FileItem]:
    """A Word document: headings by style, lists, tables, footnotes; no page headers, macros or comments."""
    from xml.parsers.expat import ExpatError

    import mammoth

    with open_archive(path, options.max_bytes) as archive:
        title = _dublin_core(archive, "docProps/core.xml", "title")
        if "word/document.xml" not in archive.namelist():
            raise ReadError("damaged", "it has no word/document.xml")
        stream = what_mammoth_reads(archive)
    try:
        made: Any = mammoth.convert_to_html(
            stream, style_map=_STYLES, convert_image=mammoth.images.img_element(lambda _: {})
        )
    except (KeyError, ValueError, AttributeError, TypeError, OSError, ExpatError) as error:
        raise ReadError("damaged", f"not a Word document ({type(error).__name__}: {error})") from error
    yield FileDocument(markdown_of(_with_title_above(made.value)), title)


def what_mammoth_reads(archive: zipfile.ZipFile) -> io.BytesIO:
    """An archive of the archive's XML: of the styles that are used their names, and the numbering of those of lists; of
    lists what their numbers are.

    A style sheet may have ten thousand elements. mammoth, which uses no others of them, takes nine tenths of its time
    to read them all.
    """
    names = dict.fromkeys(name for name in archive.namelist() if name.endswith((".xml", ".rels")))
    parts = {name: archive.read(name) for name in names}
    if sheet := parts.pop(_STYLE_SHEET, None):
        others = (data for name, data in parts.items() if not name.startswith(_OTHER_STYLE_SHEET))
        parts[_STYLE_SHEET] = _named_styles(sheet, others)
    if numbering := parts.get(_NUMBERING):
        parts[_NUMBERING] = _numbered_levels(numbering)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as copy:
        for name, data in parts.items():
            copy.writestr(name, data)
    return stream


def _named_styles(data: bytes, others: Iterable[bytes]) -> bytes:
    """The style sheet with the styles that the other parts may use."""
    from lxml import etree  # pyright: ignore[reportAttributeAccessIssue]

    sheet, values = parse_xml(data), _attribute_values(others)
    named = etree.Element(sheet.tag, nsmap=sheet.nsmap)
    for style in sheet:
        if _name(style) != "style":
            continue
        own = {key.rpartition("}")[2]: value for key, value in style.items()}
        name = own.get("styleId", "")
        if values is None or name in values or "type" not in own or not _PLAIN_NAME.fullmatch(name):
            kept = {"name", "pPr"} if own.get("type") == "numbering" else {"name"}
            copy = etree.SubElement(named, style.tag, style.attrib)
            copy.extend(deepcopy(child) for child in style if _name(child) in kept)
    return etree.tostring(named)


def _attribute_values(parts: Iterable[bytes]) -> set[str] | None:
    """The values of all attributes; None where they are not written as they are."""
    values: set[str] = set()
    for data in parts:
        if b"\0" in data or b"&#" in data:
            return None
        values.update(match[1].decode("utf-8", "replace") for match in _ATTRIBUTE.finditer(data))
    return values


def _numbered_levels(data: bytes) -> bytes:
    from lxml import etree  # pyright: ignore[reportAttributeAccessIssue]

    numbering = parse_xml(data)
    for level in numbering.iter("{*}lvl"):
        _keep_children(level, {"numFmt", "pStyle", "AlternateContent"})
    return etree.tostring(numbering)


def _keep_children(element: Any, names: Set[str]) -> None:
    element[:] = [child for child in element if _name(child) in names]


def _name(element: Any) -> str:
    """An element's name without its namespace, of which Word has two; empty for a comment."""
    return element.tag.rpartition("}")[2] if isinstance(element.tag, str) else ""


def _with_title_above(html: str) -> str:
    """A paragraph in the style *Title* as the one heading above all others. (Text has no literal tags here.)"""
    titled, count = _TITLE.subn(r"<h0>\1</h0>", html)
    if not count:
        return html
    return _HEADING_TAG.sub(lambda match: f"{match[1]}{min(int(match[2]) + 1, 6)}>", titled)


def read_pptx(path: Path, options: ReadOptions) -> Iterator[FileItem]:
    """A presentation: a section for each slide, with its tables and notes; slides are its pages."""
    from pptx import Presentation
    from pptx.exc import PythonPptxError

    with open_archive(path, options.max_bytes):
        try:
            presentation = Presentation(str(path))
            slides = [_slide(slide) for slide in presentation.slides]
            title = presentation.core_properties.title or ""
        except (PythonPptxError, KeyError, ValueError, AttributeError, TypeError, SyntaxError) as error:
            raise ReadError("damaged", f"not a presentation ({type(error).__name__}: {error})") from error
    text, pages = joined_pages(slides)
    yield FileDocument(text, title, pages=pages)


def _slide(slide: Any) -> str:
    title = slide.shapes.title
    heading = " ".join(title.text_frame.text.split()) if title is not None else ""
    parts = [f"## {heading}"] if heading else []
    for shape in _shapes(slide.shapes):
        if title is not None and shape.shape_id == title.shape_id:
            continue
        if shape.has_text_frame:
            lines = [paragraph.text.strip() for paragraph in shape.text_frame.paragraphs]
            parts.append("\n\n".join(line.replace("\v", "\n") for line in lines if line))
        elif getattr(shape, "has_table", False):
            parts.append(markdown_table([cell.text for cell in row.cells] for row in shape.table.rows))
    if slide.has_notes_slide and (notes := slide.notes_slide.notes_text_frame):
        parts.append(notes.text.strip())
    return "\n\n".join(part for part in parts if part)


def _shapes(shapes: Any) -> Iterator[Any]:
    for shape in shapes:
        if hasattr(shape, "shapes"):
            yield from _shapes(shape.shapes)
        else:
            yield shape


def markdown_table(rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table; its first row is the header."""
    lines = [
        "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in row) + " |" for row in rows
    ]
    if lines:
        lines.insert(1, "|" + " --- |" * max(1, lines[0].count(" | ") + 1))
    return "\n".join(lines)


def read_opendocument(path: Path, options: ReadOptions) -> Iterator[FileItem]:
    """An OpenDocument text or presentation; slides are its pages."""
    with open_archive(path, options.max_bytes) as archive:
        names = archive.namelist()
        if "META-INF/manifest.xml" in names and b"encryption-data" in archive.read("META-INF/manifest.xml"):
            raise ReadError("encrypted", "it has a password: save it without one")
        root = parse_xml(archive.read("content.xml"))
        title = _dublin_core(archive, "meta.xml", "title")
    slides = [_odf_blocks(page) for page in root.iter(f"{_DRAW}page")]
    if slides:
        text, pages = joined_pages("\n\n".join(blocks) for blocks in slides)
        yield FileDocument(text, title, pages=pages)
        return
    body: Any = next(root.iter("{urn:oasis:names:tc:opendocument:xmlns:office:1.0}text"), root)
    yield FileDocument("\n\n".join(_odf_blocks(body)) + "\n", title)


def _odf_blocks(element: Any) -> list[str]:
    blocks: list[str] = []
    for child in element:
        if child.tag in _NOT_READ:
            continue
        if child.tag == f"{_TEXT}h":
            level = _number_in(child, "outline-level", most=6)
            blocks.append(f"{'#' * level} {' '.join(_odf_text(child).split())}")
        elif child.tag == f"{_TEXT}p":
            blocks.append(_odf_text(child).strip())
        elif child.tag == f"{_TEXT}list":
            items = [" ".join(_odf_blocks(item)) for item in child.iter(f"{_TEXT}list-item")]
            blocks.append("\n".join(f"- {item}" for item in items if item))
        elif child.tag == f"{_TABLE}table":
            rows = child.iter(f"{_TABLE}table-row")
            blocks.append(markdown_table([" ".join(_odf_blocks(cell)) for cell in row] for row in rows))
        elif isinstance(child.tag, str):
            blocks += _odf_blocks(child)
    return [block for block in blocks if block]


def _number_in(element: Any, attribute: str, most: int) -> int:
    """From 1 to ``most``; 1 where the attribute is missing or no number."""
    value = element.get(f"{_TEXT}{attribute}", "")
    return max(1, min(int(value), most)) if re.fullmatch("[0-9]{1,9}", value) else 1


def _odf_text(element: Any) -> str:
    """Its text, with the spaces, tabs and line breaks that are elements."""
    parts = [element.text or ""]
    for child in element:
        if child.tag == f"{_TEXT}s":
            parts.append(" " * _number_in(child, "c", most=100))
        elif child.tag == f"{_TEXT}tab":
            parts.append("\t")
        elif child.tag == f"{_TEXT}line-break":
            parts.append("\n")
        elif isinstance(child.tag, str):
            parts.append(_odf_text(child))
        parts.append(child.tail or "")
    return "".join(parts)


def read_rtf(path: Path, options: ReadOptions) -> Iterator[FileItem]:
    """Rich text without its formatting."""
    from striprtf.striprtf import rtf_to_text

    data = path.read_bytes()
    if not data.lstrip().startswith(b"{\\rtf"):
        raise ReadError("damaged", "it does not begin as rich text does ({\\rtf)")
    try:
        text = rtf_to_text(data.decode("cp1252", "replace"), errors="replace")
    except (ValueError, LookupError, TypeError) as error:
        raise ReadError("damaged", f"not rich text ({type(error).__name__}: {error})") from error
    yield FileDocument(_paragraphs(text))


def _paragraphs(text: str) -> str:
    """Each line as a paragraph, as word processors mean them."""
    return "\n\n".join(line.strip() for line in text.splitlines() if line.strip()) + "\n"


def read_epub(path: Path, options: ReadOptions) -> Iterator[FileItem]:
    """A book: its chapters in reading order."""
    with open_archive(path, options.max_bytes) as archive:
        names = set(archive.namelist())
        if "META-INF/encryption.xml" in names:
            raise ReadError(
                "encrypted", "its chapters are protected: only a book without protection can be read"
            )
        container = parse_xml(archive.read("META-INF/container.xml"))
        place = next((e.get("full-path") for e in container.iter("{*}rootfile")), None)
        if place not in names:
            raise ReadError("damaged", "it names no package document")
        package = parse_xml(archive.read(cast("str", place)))
        hrefs = {item.get("id"): item.get("href", "") for item in package.iter("{*}item")}
        base = posixpath.dirname(cast("str", place))
        chapters: list[str] = []
        missing = 0
        for reference in package.iter("{*}itemref"):
            name = posixpath.normpath(posixpath.join(base, unquote(hrefs.get(reference.get("idref"), ""))))
            if name in names:
                html, _ = decode(archive.read(name))
                chapters.append(html_document(html).text.strip())
            else:
                missing += 1
    metadata = {"lang": lang} if (lang := _text_of(package, "language")) else {}
    warnings = [f"{missing} of its chapters are missing"] if missing else []
    text = "\n\n".join(chapter for chapter in chapters if chapter) + "\n"
    yield FileDocument(text, _text_of(package, "title"), metadata, warnings)


def _dublin_core(archive: Any, name: str, element: str) -> str:
    with suppress(KeyError, ReadError):
        return _text_of(parse_xml(archive.read(name)), element)
    return ""


def _text_of(root: Any, element: str) -> str:
    found: Any = next(root.iter(f"{_DC}{element}"), None)
    return " ".join((found.text or "").split()) if found is not None else ""
