"""Other forms of a question's words that a stemmer does not lead to the same stem."""

from __future__ import annotations

import re

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
