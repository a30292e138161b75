"""HTML as Markdown: the main content, without menus, scripts and what is hidden."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from assets_pkg.corpus.readers.decoding import decode
from assets_pkg.corpus.readers.file_document import FileDocument, FileItem, ReadOptions

_NO_CONTENT = (
    "script, style, noscript, template, svg, canvas, iframe, object, nav, aside, form, dialog, button, [hidden], "
    "[aria-hidden=true], [role=navigation], [role=banner], [role=contentinfo], [role=search], [role=dialog]"
)
_AROUND_CONTENT = "header, footer"
"""Of the page, not of an article."""

_HIDDEN = re.compile(r"(?:display\s*:\s*none|visibility\s*:\s*hidden)", re.IGNORECASE)
_CHARSET = re.compile(rb"""<meta[^>]{0,200}?charset\s*=\s*["']?\s*([\w.:-]{1,40})""", re.IGNORECASE)
_BLANK_LINES = re.compile(r"\n{3,}")
_LINE_END_BLANKS = re.compile(r"[ \t]+(?=\n)")
_HEAD_BYTES = 4096


def read_html(path: Path, options: ReadOptions) -> Iterator[FileItem]:
    """The page's main content (``main``, or its one ``article``, or else the body), its title and its language."""
    data = path.read_bytes()
    declared = _CHARSET.search(data[:_HEAD_BYTES])
    text, warnings = decode(data, declared[1].decode("ascii") if declared else "")
    yield html_document(text, warnings)


def html_document(html: str, warnings: list[str] | None = None) -> FileDocument:
    """The document of a whole HTML page."""
    from bs4 import BeautifulSoup

    soup: Any = BeautifulSoup(html, "lxml")
    title = _line_of(soup.title) if soup.title else ""
    lang = soup.html.get("lang", "") if soup.html else ""
    content = _main_content(soup)
    heading = content.find("h1")
    warned = list(warnings or [])
    text = _as_markdown(content, warned)
    own_title = _line_of(heading) if heading else ""
    return FileDocument(text, own_title or title, {"lang": lang} if lang else {}, warned)


def _line_of(element: Any) -> str:
    """The text of an element on one line; marks inside a word (``wbr``, ``b``) do not split it."""
    parts = (
        "\n" if part.name == "br" else part
        for part in element.descendants
        if not part.name or part.name == "br"
    )
    return " ".join("".join(parts).split())


def markdown_of(html: str) -> str:
    """All of a fragment of HTML, such as a library makes of a document."""
    from bs4 import BeautifulSoup

    return _as_markdown(BeautifulSoup(html, "lxml"), [])


def _main_content(soup: Any) -> Any:
    for element in soup.select(_NO_CONTENT):
        element.decompose()
    for element in soup.find_all(style=_HIDDEN):
        element.decompose()
    mains = soup.select("main, [role=main]") or soup.find_all("article")
    if len(mains) == 1:
        return mains[0]
    body = soup.body or soup
    for element in body.select(_AROUND_CONTENT):
        if not element.find_parent(["article", "section", "main"]):
            element.decompose()
    return body


def _as_markdown(content: Any, warnings: list[str]) -> str:
    from markdownify import MarkdownConverter

    converter = MarkdownConverter(
        heading_style="ATX",
        bullets="-",
        strip=["a", "img"],
        escape_asterisks=False,
        escape_underscores=False,
        escape_misc=False,
        table_infer_header=True,
        strong_em_symbol="",
    )
    try:
        text = converter.convert_soup(content)
    except RecursionError:
        warnings.append("its elements are nested too deep: read as plain text, without headings")
        text = content.get_text("\n", strip=True)
    return _BLANK_LINES.sub("\n\n", _LINE_END_BLANKS.sub("", text)).strip() + "\n"
