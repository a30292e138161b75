"""The languages of texts, kept so that an unchanged text is not looked at again."""

from __future__ import annotations

from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

import orjson

from resources.language import RULES, SAMPLE_CHARACTERS, language_of
from storage.digests import digest_text
from storage.files import write_atomic

LANGUAGES = "languages"

MOST_KEPT = 100_000
"""Of one corpus: about 20 MB of memory."""


class KnownLanguages:
    """A context manager that saves what it was asked for, unless an error ends it.

    Args:
        folder: where they are kept, one JSON file for each corpus; with None nowhere. A file that is missing, malformed
            or not writable costs time only.
        corpus: its name.
    """

    def __init__(self, folder: Path | None, corpus: str) -> None:
        self._path = folder / LANGUAGES / f"{digest_text(corpus)}.json" if folder else None
        self._made_by = [RULES, version("py3langid")]
        self._known = self._load()
        self._current: dict[str, str] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._path and kind is None and self._current != self._known:
            with suppress(OSError):
                saved = {"made_by": self._made_by, "languages": self._current}
                write_atomic(self._path, orjson.dumps(saved).decode())

    def of(self, text: str) -> str:
        """What :func:`~resources.language.language_of` says."""
        if self._path is None:
            return language_of(text)
        key = digest_text(text[:SAMPLE_CHARACTERS])
        language = self._known.get(key) or language_of(text)
        if len(self._current) < MOST_KEPT:
            self._current[key] = language
        return language

    def _load(self) -> dict[str, str]:
        try:
            saved: Any = orjson.loads(self._path.read_bytes()) if self._path else {}
            languages = saved["languages"] if saved["made_by"] == self._made_by else {}
            return languages if all(isinstance(each, str) for each in languages.values()) else {}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return {}
