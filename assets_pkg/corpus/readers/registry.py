"""Which reader reads a file: by what it begins with, else by its extension."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from assets_pkg.corpus.readers import office, pdf, tables, text
from assets_pkg.corpus.readers.file_document import FileItem, Reader, ReadError, ReadOptions
from assets_pkg.corpus.readers.html import read_html

EXTRA = "pip install 'retune-embed[documents]'"
HEAD_BYTES = 4096

PLAIN = frozenset({".txt", ".md", ".text", ""})
"""Files with these extensions are text as they are, without a reader's help as long as they are UTF-8."""

CODE = tuple(
    f".{name}"
    for name in re.split(
        r"\s+",
        "py pyi js mjs jsx ts tsx java kt scala c h cc cpp hpp cs go rs rb php swift sh bash ps1 sql r jl lua pl dart",
    )
)


@dataclass(frozen=True)
class Kind:
    """A type of document: its name, the extensions that files of it have, and what reads them."""

    name: str
    extensions: tuple[str, ...]
    read: Reader


KINDS = (
    Kind("text", (*PLAIN, ".markdown", ".rst", ".log"), text.read_text),
    Kind("html", (".html", ".htm", ".xhtml"), read_html),
    Kind("pdf", (".pdf",), pdf.read_pdf),
    Kind("docx", (".docx", ".docm", ".dotx"), office.read_docx),
    Kind("pptx", (".pptx", ".pptm", ".ppsx"), office.read_pptx),
    Kind("spreadsheet", (".xlsx", ".xlsm", ".xlsb", ".xls", ".ods"), tables.read_spreadsheet),
    Kind("opendocument", (".odt", ".odp"), office.read_opendocument),
    Kind("rtf", (".rtf",), office.read_rtf),
    Kind("epub", (".epub",), office.read_epub),
    Kind("csv", (".csv", ".tsv", ".tab"), tables.read_csv),
    Kind("jsonl", (".jsonl", ".ndjson"), tables.read_jsonl),
    Kind("parquet", (".parquet",), tables.read_parquet),
    Kind("asciidoc", (".adoc", ".asciidoc"), text.read_asciidoc),
    Kind("tex", (".tex",), text.read_tex),
    Kind("notebook", (".ipynb",), text.read_notebook),
    Kind("code", CODE, text.read_code),
)
BY_NAME = {kind.name: kind for kind in KINDS}
BY_EXTENSION = {extension: kind for kind in KINDS for extension in kind.extensions}
EXTENSIONS = frozenset(BY_EXTENSION)

_TEXT_KINDS = frozenset({"text", "html", "csv", "jsonl", "asciidoc", "tex", "notebook", "code"})
_IN_ARCHIVE = {
    "word/document.xml": "docx",
    "ppt/presentation.xml": "pptx",
    "xl/workbook.xml": "spreadsheet",
    "xl/workbook.bin": "spreadsheet",
}
_MIME_TYPES = {
    "application/epub+zip": "epub",
    "application/vnd.oasis.opendocument.text": "opendocument",
    "application/vnd.oasis.opendocument.presentation": "opendocument",
    "application/vnd.oasis.opendocument.spreadsheet": "spreadsheet",
}
_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_PICTURES = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"II*\0", b"MM\0*", b"RIFF")


def kind_by_name(name: str) -> str:
    """The type that a file's name says it has; empty for none that is read."""
    kind = BY_EXTENSION.get(extension_of(name))
    return kind.name if kind else ""


def extension_of(name: str) -> str:
    """The extension of a file's name in lower case, with its dot; empty for none, as in ``.hidden`` and ``name.``."""
    base = name.rpartition("/")[2]
    dot = base.rfind(".")
    return base[dot:].lower() if 0 < dot < len(base) - 1 else ""


def bytes_per_character(name: str) -> int:
    """A guess for estimates, by a file's name: of documents with a layout little is text."""
    return 1 if kind_by_name(name) in {*_TEXT_KINDS, ""} else 10


def looks_like_text(head: bytes) -> bool:
    """Whether a file that begins so has no sign of being anything else than text in UTF-8 or a relative of ASCII."""
    return b"\0" not in head and not head.startswith(
        (b"%PDF-", b"{\\rtf", b"PK\x03\x04", _OLE, b"PAR1", *_PICTURES)
    )


def read(path: Path, options: ReadOptions | None = None) -> Iterator[FileItem]:
    """The documents of a file, as the reader of its type makes them.

    A file is read as what it is, not as what its name says; the first document then has a warning.

    Raises:
        ReadError: it cannot be read, or a library that its type needs is not installed.
    """
    with path.open("rb") as stream:
        head = stream.read(HEAD_BYTES)
    if not head:
        raise ReadError("empty", "it has no bytes")
    named = kind_by_name(path.name)
    kind = _kind(path, head, named)
    warnings = [f"its name says {named}, but it is {kind}: read as {kind}"] if named != kind else []
    if named == "text" and path.suffix.lower() in {"", ".txt"} and kind != "text":
        warnings = [f"it is {kind}, in spite of its name: read as {kind}"]
    try:
        for item in BY_NAME[kind].read(path, options or ReadOptions()):
            if warnings and hasattr(item, "warnings"):
                item.warnings.extend(warnings)  # type: ignore[union-attr]
                warnings = []
            yield item
    except ImportError as error:
        raise ReadError("library missing", f"{kind} needs {error.name or error}: {EXTRA}") from error


def _kind(path: Path, head: bytes, named: str) -> str:
    """The type of a file by what it begins with; ``named`` where that says nothing.

    Raises:
        ReadError: it is of a type that cannot be read.
    """
    if b"%PDF-" in head[:1024] and named not in _TEXT_KINDS - {"text"}:
        return "pdf"
    if head.startswith(b"PK\x03\x04"):
        return _kind_of_archive(path)
    if head.startswith(_OLE):
        return _kind_of_ole(path, named)
    if head.startswith(b"{\\rtf"):
        return "rtf"
    if head.startswith(b"PAR1"):
        return "parquet"
    if head.startswith(_PICTURES):
        raise ReadError("picture", "it is a picture: only text is read")
    if named in _TEXT_KINDS:
        return named
    return _kind_of_text(head, named)


def _kind_of_text(head: bytes, named: str) -> str:
    """Text with the name of another type: often an error page that was saved in place of the document."""
    if b"\0" in head and not head.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ReadError("damaged", f"it does not begin as a file of its type ({named or 'none'}) does")
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    return "html" if start.startswith((b"<!doctype html", b"<html")) else "text"


def _kind_of_archive(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = set(archive.namelist())
            mime = (
                archive.read("mimetype")[:100].decode("ascii", "replace").strip()
                if "mimetype" in names
                else ""
            )
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, OSError, EOFError) as error:
        raise ReadError("damaged", f"its archive cannot be read ({error})") from error
    for name, kind in _IN_ARCHIVE.items():
        if name in names:
            return kind
    if mime in _MIME_TYPES:
        return _MIME_TYPES[mime]
    raise ReadError("archive", "it is an archive, and no document: unpack it into the folder")


def _kind_of_ole(path: Path, named: str) -> str:
    data = path.read_bytes()
    if "EncryptedPackage".encode("utf-16-le") in data:
        raise ReadError("encrypted", "it has a password: save it without one")
    if any(name.encode("utf-16-le") in data for name in ("Workbook", "Book")):
        return "spreadsheet"
    raise ReadError("old format", "it is of Office 97-2003: save it as docx or pptx")
