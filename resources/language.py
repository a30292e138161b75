"""The language of a text, by its script and by py3langid's model, which comes with its package.

English is the answer wherever another language is not sure: code, names and short texts then stay as they are.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from itertools import chain

import regex

RULES = "1"
"""Raised when another language is found for the same text: what was kept of earlier ones is found again."""

ENGLISH = "en"
SAMPLE_CHARACTERS = 3000
LEAST_LETTERS = 60
"""Of a text in Latin letters: the language of a shorter one is not sure."""

LEAST_SHARE = 0.3
"""Of a text's letters that a script other than Latin must have."""

LEAST_KANA_SHARE = LEAST_SHARE / 3
"""Japanese is written with Chinese characters, too."""

_SCRIPTS = {
    name: regex.compile(pattern)
    for name, pattern in {
        "ja": r"[\p{Hiragana}\p{Katakana}]",
        "ko": r"\p{Hangul}",
        "zh": r"\p{Han}",
        "th": r"\p{Thai}",
        "lo": r"\p{Lao}",
        "km": r"\p{Khmer}",
        "my": r"\p{Myanmar}",
        "he": r"\p{Hebrew}",
        "el": r"\p{Greek}",
        "hy": r"\p{Armenian}",
        "ka": r"\p{Georgian}",
        "ta": r"\p{Tamil}",
        "te": r"\p{Telugu}",
        "bn": r"\p{Bengali}",
    }.items()
}
_SHARED_SCRIPTS = {
    "hi": (regex.compile(r"\p{Devanagari}"), ("hi", "mr", "ne")),
    "ar": (regex.compile(r"\p{Arabic}"), ("ar", "fa", "ur", "ps", "ug", "ku")),
    "ru": (regex.compile(r"\p{Cyrillic}"), ("ru", "uk", "bg", "sr", "mk", "be", "kk", "mn", "ky")),
}
_LATIN = tuple("en de fr es it pt nl sv da no nb fi hu pl cs sk sl hr ro tr id vi ca et lv lt is".split())  # noqa: SIM905
_FREQUENT = {
    name: frozenset(words.split())
    for name, words in {
        "de": "der die das und ist nicht ein eine mit den von zu wird sich auf für",
        "fr": "le la les des et est une que dans pour qui sur pas avec sont du",
        "es": "el la los las de que y en un una es por con para del se",
        "it": "il la di che e un una per non sono con del della i nel gli",
        "pt": "o a os as de que e em um uma para com não do da se",
        "nl": "de het een en van is dat niet met op voor te zijn wordt aan",
    }.items()
}
"""Words of which running text has some in every sentence: code and lists of names have none."""

_LANGUAGES_OF = {
    word: [name for name, words in _FREQUENT.items() if word in words]
    for word in chain.from_iterable(_FREQUENT.values())
}

_ASCII_WORDS = bytes(ord(chr(code).lower()) if chr(code).isalpha() else 32 for code in range(128)).ljust(256)
_ASCII_OTHER_THAN_LETTERS = bytes(code for code in range(128) if not chr(code).isalpha())
_OTHER_THAN_LETTERS = regex.compile(r"\P{L}+")
_OTHER_SCRIPT = regex.compile(r"[^\p{Latin}\p{Common}\p{Inherited}]")
_WORD = re.compile(r"[^\W\d_]+")
LEAST_FREQUENT_SHARE = 0.12


def language_of(text: str) -> str:
    """The ISO 639-1 code of the language of the text's beginning."""
    return _of_sample(text[:SAMPLE_CHARACTERS])


@lru_cache(maxsize=4096)
def _of_sample(sample: str) -> str:
    if sample.isascii():
        return _of_ascii(sample)
    letters = len(_OTHER_THAN_LETTERS.sub("", sample))
    if not letters:
        return ENGLISH
    if by_script := _by_script(sample, letters):
        return by_script
    return _by_words(sample) if letters >= LEAST_LETTERS else ENGLISH


def main_language(languages: Counter[str]) -> str:
    """The one that more than half of the texts have; English where none has."""
    most = languages.most_common(1)
    return most[0][0] if most and most[0][1] * 2 > languages.total() else ENGLISH


def _of_ascii(sample: str) -> str:
    """The same for a text in ASCII, as most are, by operations on bytes: a fraction of the work."""
    data = sample.encode("ascii")
    if len(data.translate(None, _ASCII_OTHER_THAN_LETTERS)) < LEAST_LETTERS:
        return ENGLISH
    words = data.translate(_ASCII_WORDS).decode("ascii").split()
    running = _running(words)
    found = _most_likely(sample, _LATIN) if running else ENGLISH
    return found if found in running else ENGLISH


def _by_script(sample: str, letters: int) -> str:
    if len(_OTHER_SCRIPT.findall(sample)) < LEAST_KANA_SHARE * letters:
        return ""
    shares = {name: len(pattern.findall(sample)) / letters for name, pattern in _SCRIPTS.items()}
    if shares["ja"] >= LEAST_KANA_SHARE:
        return "ja"
    name = max(shares, key=lambda each: shares[each])
    if shares[name] >= LEAST_SHARE:
        return name
    for default, (pattern, languages) in _SHARED_SCRIPTS.items():
        if len(pattern.findall(sample)) >= LEAST_SHARE * letters:
            found = _most_likely(sample, languages)
            return found or default
    return ""


def _by_words(sample: str) -> str:
    """The language of a text in Latin letters, some of them not ASCII."""
    running = _running([word.lower() for word in _WORD.findall(sample)])
    found = _most_likely(sample, _LATIN)
    if found in _FREQUENT:
        return found if found in running else ENGLISH
    return found or ENGLISH


def _running(words: Sequence[str]) -> set[str]:
    """The languages whose frequent words are a large share of a text's."""
    counts = Counter[str]()
    for word, count in Counter(filter(_LANGUAGES_OF.__contains__, words)).items():
        for name in _LANGUAGES_OF[word]:
            counts[name] += count
    return {name for name, count in counts.items() if count >= LEAST_FREQUENT_SHARE * len(words)}


def _most_likely(sample: str, languages: tuple[str, ...]) -> str:
    """The most probable of all languages, if it is among these."""
    from py3langid import classify  # pyright: ignore[reportMissingTypeStubs, reportUnknownVariableType]

    found = str(classify(sample)[0])  # pyright: ignore[reportUnknownArgumentType]
    return found if found in languages else ""
