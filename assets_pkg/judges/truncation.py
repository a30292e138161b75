"""How many of the judged texts each judge reads only in part, because they are longer than its limit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from assets_pkg.judges.captions import CaptionSet
from resources.encoders.text_lengths import TextLength

UNKNOWN = "may truncate: its limit is not known here (a server, or a folder without tokenizer.json)"


@dataclass(frozen=True)
class Truncation:
    """``tokens``: the judge's limit. ``references`` and ``captions`` (by captioner): how many texts are longer, of
    ``clips`` each."""

    tokens: int
    clips: int
    references: int
    captions: Mapping[str, int]

    def explain(self) -> str:
        """One sentence for a report."""
        total = self.clips * len(self.captions)
        return (
            f"reads at most {self.tokens:,} tokens: {self.references} of {self.clips} references and "
            f"{sum(self.captions.values())} of {total} captions are longer and are judged by their beginning"
        )


def count_truncated(captions: CaptionSet, limit: TextLength) -> Truncation:
    """Count the texts that are longer than a judge's limit."""

    def count(texts: Mapping[str, str]) -> int:
        return sum(limit.truncated([texts[clip] for clip in captions.clips]))

    by_captioner = {name: count(texts) for name, texts in captions.predictions.items()}
    return Truncation(limit.tokens, len(captions.clips), count(captions.references), by_captioner)


def to_document(made: Mapping[str, Truncation]) -> dict[str, Any]:
    """As JSON values, by judge."""
    return {judge: asdict(each) for judge, each in made.items()}


def from_document(document: Mapping[str, Any]) -> dict[str, Truncation]:
    """The inverse of :func:`to_document`."""
    return {judge: Truncation(**each) for judge, each in document.items()}


def explain_all(made: Mapping[str, Truncation], judges: Mapping[str, Any]) -> dict[str, str]:
    """A sentence for each judge that truncates, and for each that does not tell."""
    shown: dict[str, str] = {}
    for judge in judges:
        if judge not in made:
            shown[judge] = UNKNOWN
        elif made[judge].references or any(made[judge].captions.values()):
            shown[judge] = made[judge].explain()
    return shown
