"""Where in its document a passage stands: its page and the headings above it, as fields of its metadata."""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import Any

from assets_pkg.corpus.metadata import as_json
from assets_pkg.corpus.segmentation import Section, heading_paths, split_sections
from storage.artifacts import Document

PAGE, HEADING_PATH = "page", "heading_path"
SEPARATOR = " > "
_NO_BLANK = re.compile(r"\S")


class Places:
    """The places of one document's passages.

    Args:
        pages: the offsets at which its pages begin; empty if it has none.
        taken: the names and types of the fields that documents have: one of another type keeps its name.
    """

    def __init__(self, document: Document, pages: Sequence[int], taken: Mapping[str, str]) -> None:
        self._text, self._pages = document.text, pages
        self._own: dict[str, Any] = json.loads(document.metadata)
        sections = split_sections(document.text)
        paths = heading_paths(document.text, sections)
        self._paths = {each.start: path for each, path in zip(sections, paths, strict=True)}
        self._with_page = bool(pages) and PAGE not in self._own and taken.get(PAGE, "int") == "int"
        self._with_path = HEADING_PATH not in self._own and taken.get(HEADING_PATH, "text") == "text"

    def metadata_at(self, start: int, section: Section) -> str:
        """The document's metadata, and the place of a passage that begins at offset ``start`` in ``section``."""
        fields = dict(self._own)
        if self._with_page:
            first = _NO_BLANK.search(self._text, start)
            fields[PAGE] = bisect_right(self._pages, first.start() if first else start)
        path = self._paths.get(section.start, [])
        if self._with_path and path:
            fields[HEADING_PATH] = SEPARATOR.join(path)
        return as_json(fields)
