"""Where sentences end beside what sentencex knows: ordinal numbers, quoted speech, and Thai, which has no full stop."""

from __future__ import annotations

import re

_ORDINAL = re.compile(r"(?:^|[\s(])\d{1,2}\.\s+$")
_WITH_ORDINALS = frozenset(
    {"de", "da", "no", "nb", "sv", "fi", "cs", "sk", "sl", "hr", "hu", "et", "lv", "pl", "tr", "is"}
)
"""Languages that write *3.* for *third*."""

_QUOTE_GOES_ON = re.compile(r"(?:と|って|との|という|とは)")
_CLOSED_QUOTE = ("」", "』", "”")

_THAI_GAP = re.compile(r"(?<=[\u0e01-\u0e4e])[ \t]+(?=[\u0e01-\u0e4e])")
_THAI_GOES_ON = re.compile(
    r"(?:และ|หรือ|แต่|ที่|ซึ่ง|อัน|เพื่อ|โดย|เพราะ|เนื่องจาก|ว่า|ของ|ใน|กับ|ด้วย|ได้แก่|เช่น|รวมทั้ง|จน|ถ้า|เมื่อ|ๆ|ฯ)"
)
_THAI_BEGUN = re.compile(r"(?:ถ้า|เมื่อ|หาก|แม้|เนื่องจาก|เพราะ|สำหรับ|นอกจาก|หลังจาก|ก่อน|ขณะ)")
_THAI_REPEATED = ("ๆ", "ฯ")
THAI_LEAST = 15
"""Letters of a Thai sentence; a shorter piece between two blanks is part of one."""


def joined(pieces: list[str], language: str) -> list[str]:
    """Pieces that a full stop inside a sentence cut apart are put together again."""
    sentences: list[str] = []
    for piece in pieces:
        if sentences and _goes_on(sentences[-1], piece, language):
            sentences[-1] += piece
        else:
            sentences.append(piece)
    return sentences


def _goes_on(before: str, piece: str, language: str) -> bool:
    if language in _WITH_ORDINALS:
        return bool(_ORDINAL.search(before))
    if language == "ja":
        return before.rstrip().endswith(_CLOSED_QUOTE) and bool(_QUOTE_GOES_ON.match(piece))
    return False


def split_thai(text: str) -> list[str]:
    """Thai sentences: they end at a blank, which also stands inside of them: before a conjunction, after a clause that
    a conjunction begins, after a repeated word, and around short pieces."""
    sentences: list[str] = []
    start = 0
    gaps = [match.span() for match in _THAI_GAP.finditer(text)]
    if not gaps:
        return [text]
    for (gap, end), (following, _) in zip(gaps, [*gaps[1:], (len(text), len(text))], strict=True):
        if _ends_thai(text[start:gap].strip(), text[end:following].strip()):
            sentences.append(text[start:end])
            start = end
    return [*sentences, text[start:]] if text[start:] else sentences


def _ends_thai(before: str, after: str) -> bool:
    """Whether a sentence ends between the letters since its beginning and those up to the next blank."""
    if len(before) < THAI_LEAST or len(after) < THAI_LEAST or _THAI_GOES_ON.match(after):
        return False
    return not (before.endswith(_THAI_REPEATED) or (_THAI_BEGUN.match(before) and " " not in before))
