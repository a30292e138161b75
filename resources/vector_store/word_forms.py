"""Words for full-text search: their stems, and other forms of a question's words that have another stem."""

from __future__ import annotations

import importlib
import re
from collections.abc import Collection
from functools import lru_cache
from threading import Lock
from typing import Any

import regex

from resources.language import ENGLISH

STEMMERS = {
    **{"en": "English", "de": "German", "fr": "French", "es": "Spanish", "it": "Italian", "pt": "Portuguese"},
    **{"nl": "Dutch", "sv": "Swedish", "da": "Danish", "no": "Norwegian", "nb": "Norwegian", "fi": "Finnish"},
    **{"hu": "Hungarian", "ro": "Romanian", "tr": "Turkish", "ru": "Russian", "el": "Greek", "ar": "Arabic"},
    "ta": "Tamil",
}
"""Snowball's, by language; the words of others are kept as they are, but for English ones."""

_WRITTEN = regex.compile(r"[\p{L}\p{M}\p{N}]+")
_WITHOUT_SPACES = regex.compile(r"([\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]+)")
_MARKS = regex.compile(r"\p{M}+")
_STEMMING = Lock()

_WORD = re.compile(r"[^\W\d_]{5,}")
_VERB_ENDING = re.compile(r"(?:en|te|ten|est|st|t|e|n)$")
_PARTICIPLE = re.compile(r"ge(\w{3,}?)(?:t|te|ten|ter|tes|tem|en)$")
LEAST_STEM = 3


def with_other_forms(text: str, language: str) -> str:
    """The text, followed by more forms of its words for full-text search.

    German: the forms of what may be a verb (*prüfen*, *geprüft*; *erneuern*, *erneuert*): Snowball's stems keep *ge-*,
    and the *t* after *er* or *el*. A form that no passage has changes nothing.
    """
    if language != "de":
        return text
    forms = [form for word in _WORD.findall(text) for form in _german(word.lower())]
    return " ".join([text, *dict.fromkeys(forms)])


def _german(word: str) -> list[str]:
    if participle := _PARTICIPLE.match(word):
        return [f"{participle[1]}en", f"ge{participle[1]}t"]
    stem = _VERB_ENDING.sub("", word)
    if len(stem) < LEAST_STEM:
        return []
    return [f"ge{stem}t", *((f"{stem}n", f"{stem}t") if stem.endswith(("er", "el")) else ())]


def stems(text: str, languages: Collection[str]) -> list[str]:
    """The stems of every word, one for each of the languages if they differ; code names are split at punctuation.

    Scripts without spaces have no words here but every two neighbouring signs, as in Lucene's ``CJKAnalyzer``
    (https://lucene.apache.org/core/10_0_0/analysis/common/org/apache/lucene/analysis/cjk/package-summary.html).
    """
    found: list[str] = []
    for word in _WRITTEN.findall(text.lower()):
        for part in filter(None, _WITHOUT_SPACES.split(word)):
            if _WITHOUT_SPACES.match(part):
                found += _pairs(part)
            else:
                found += dict.fromkeys(_stem(part, language) for language in languages)
    return found


def _pairs(signs: str) -> list[str]:
    signs = _MARKS.sub("", signs)  # engines split words at them
    return [signs[start : start + 2] for start in range(max(1, len(signs) - 1))]


@lru_cache(maxsize=100_000)
def _stem(word: str, language: str) -> str:
    with _STEMMING:  # a stemmer keeps the word that it works on
        return _stemmer(STEMMERS.get(language, STEMMERS[ENGLISH]).lower()).stemWord(word)


@lru_cache
def _stemmer(name: str) -> Any:
    snowball: Any = importlib.import_module("snowballstemmer")  # it has no types
    return snowball.stemmer(name)
