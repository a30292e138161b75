"""Text with a mark-up of its own, and source code, as Markdown."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from assets_pkg.corpus.readers.decoding import decode
from assets_pkg.corpus.readers.file_document import FileDocument, FileItem, ReadError, ReadOptions

_DEFINITION = re.compile(
    r"(?m)^(?:(?:export|default|public|private|protected|internal|abstract|final|static|async|pub|partial|data|sealed)"
    r"(?:\([\w ]+\))?[ \t]+)*(?:def|class|func|function|fn|interface|struct|enum|trait|type|module|namespace|object)"
    r"[ \t]+(?:\([^()\n]*\)[ \t]*)?(?P<name>[A-Za-z_$][\w.$]*)"
)
_ADOC_HEADING = re.compile(r"(?m)^(={1,6})(?=[ \t]+\S)")
_TEX_HEADINGS = ("part", "chapter", "section", "subsection", "subsubsection", "paragraph")
_TEX_HEADING = re.compile(r"\\(" + "|".join(_TEX_HEADINGS) + r")\*?(?:\[[^\]\n]*\])?\{([^{}\n]+)\}[ \t]*")
_TEX_TITLE = re.compile(r"\\title\{([^{}]+)\}")
_TEX_COMMENT = re.compile(r"(?m)(?<!\\)%.*$")
_TEX_LAYOUT = re.compile(
    r"\\(?:label|cite[pt]?|ref|usepackage|documentclass|begin|end|maketitle|item)(?:\[[^\]\n]*\])?(?:\{[^{}\n]*\})?"
)


def read_text(path: Path, options: ReadOptions) -> Iterator[FileItem]:
    """Plain text, Markdown and reStructuredText as they are."""
    text, warnings = decode(path.read_bytes())
    yield FileDocument(text, warnings=warnings)


def read_code(path: Path, options: ReadOptions) -> Iterator[FileItem]:
    """Source code in fenced blocks, with a heading before each definition at the start of a line."""
    text, warnings = decode(path.read_bytes())
    yield FileDocument(_code_as_markdown(text, path.suffix[1:]), path.name, warnings=warnings)


def read_asciidoc(path: Path, options: ReadOptions) -> Iterator[FileItem]:
    text, warnings = decode(path.read_bytes())
    yield FileDocument(_ADOC_HEADING.sub(lambda match: "#" * len(match[1]), text), warnings=warnings)


def read_tex(path: Path, options: ReadOptions) -> Iterator[FileItem]:
    """LaTeX: the document's body without comments and layout; sections become headings."""
    text, warnings = decode(path.read_bytes())
    text = _TEX_COMMENT.sub("", text)
    title = _TEX_TITLE.search(text)
    body = text.partition(r"\begin{document}")[2] or text
    body = _TEX_HEADING.sub(_tex_heading, body)
    body = re.sub(r"\n{3,}", "\n\n", _TEX_LAYOUT.sub("", body)).strip() + "\n"
    yield FileDocument(body, " ".join(title[1].split()) if title else "", warnings=warnings)


def _tex_heading(match: re.Match[str]) -> str:
    level = max(1, _TEX_HEADINGS.index(match[1]) - 1)
    return f"\n\n{'#' * level} {match[2].strip()}\n\n"


def read_notebook(path: Path, options: ReadOptions) -> Iterator[FileItem]:
    """A Jupyter notebook: its text as it is, its code in fenced blocks, without outputs."""
    try:
        notebook: Any = json.loads(path.read_bytes())
        cells = [(cell["cell_type"], "".join(cell["source"])) for cell in notebook["cells"]]
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise ReadError("damaged", f"not a Jupyter notebook ({type(error).__name__})") from error
    parts = [_fenced(source, "") if kind == "code" else source for kind, source in cells if source.strip()]
    yield FileDocument("\n\n".join(parts) + "\n")


def _code_as_markdown(text: str, language: str) -> str:
    starts = [(match.start(), match["name"]) for match in _DEFINITION.finditer(text)]
    ends = [start for start, _ in starts] + [len(text)]
    parts = [_fenced(text[: ends[0]], language)]
    for (start, name), end in zip(starts, ends[1:], strict=True):
        parts += [f"## {name}", _fenced(text[start:end], language)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _fenced(code: str, language: str) -> str:
    fence = "~~~" if "```" in code else "```"
    return f"{fence}{language}\n{code.strip(chr(10))}\n{fence}" if code.strip() else ""
