"""CLIP-CC-Bench's scores of captions against references (arXiv 2608.04302): of one caption, by one judge, by all."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from assets_pkg.corpus.segmentation import split_sentences
from assets_pkg.judges.captions import CaptionSet
from resources.encoders.items import ItemEncoder
from storage.progress import Progress, no_progress

if TYPE_CHECKING:
    from resources.encoders.base import Vectors

METRICS = ("coarse", "precision", "recall", "f1", "hm_cf")


@dataclass(frozen=True)
class CaptionScore:
    """``coarse``: cosine of the whole texts. ``precision``: mean over the caption's sentences of the best cosine
    with a sentence of the reference; ``recall``: the converse; ``f1``: their harmonic mean. ``hm_cf``: harmonic
    mean of coarse and f1. Harmonic means are 0 where a part is 0 or less."""

    coarse: float
    precision: float
    recall: float
    f1: float
    hm_cf: float
    reference_sentences: int
    caption_sentences: int

    def figures(self) -> dict[str, float]:
        return {name: asdict(self)[name] for name in METRICS}


def score_caption(
    reference: Vectors, caption: Vectors, reference_sentences: Vectors, caption_sentences: Vectors
) -> CaptionScore:
    """Score one caption. ``reference`` and ``caption``: float32 [d]; sentences: float32 [n, d]; all of unit length."""
    cosines = caption_sentences.astype("float64") @ reference_sentences.astype("float64").T
    precision = float(cosines.max(axis=1).mean())
    recall = float(cosines.max(axis=0).mean())
    coarse = float(reference.astype("float64") @ caption.astype("float64"))
    f1 = harmonic_mean(precision, recall)
    return CaptionScore(
        coarse=coarse,
        precision=precision,
        recall=recall,
        f1=f1,
        hm_cf=harmonic_mean(coarse, f1),
        reference_sentences=len(reference_sentences),
        caption_sentences=len(caption_sentences),
    )


def harmonic_mean(first: float, second: float) -> float:
    """2ab / (a + b), and 0 where a or b is 0 or less."""
    return 2 * first * second / (first + second) if first > 0 and second > 0 else 0.0


Scores = dict[str, dict[str, CaptionScore]]
"""Scores by captioner and clip."""


def sentences_of(text: str) -> list[str]:
    """The sentences of a text, at least one. CLIP-CC-Bench splits with NLTK, whose model would be a download."""
    return [sentence.strip() for sentence in split_sentences(text) if sentence.strip()] or [text]


@dataclass(frozen=True)
class Judged:
    """What one judge gave. ``floor``: mean hm_cf of the reference of another clip in place of a caption, which is what
    a good description of the wrong clip gets; None for one clip. ``seconds`` and ``texts``: how long the distinct
    ``texts`` took, where cached vectors take none."""

    scores: Scores
    floor: float | None
    seconds: float
    texts: int


def judge_captions(encoder: ItemEncoder, captions: CaptionSet, progress: Progress = no_progress) -> Judged:
    """Score every caption of every captioner with one judge.

    Texts are embedded as passages, without a task instruction, because the comparison is symmetric. References are
    embedded once for all captioners. ``progress`` counts distinct texts.
    """
    references = _distinct([captions.references[clip] for clip in captions.clips])
    groups = {
        name: _distinct([texts[clip] for clip in captions.clips])
        for name, texts in captions.predictions.items()
    }
    started = time.monotonic()
    counting = _Counting(
        progress, len(references.strings) + sum(len(each.strings) for each in groups.values())
    )
    whole, sentences = references.embedded(encoder, counting)
    scores: Scores = {}
    for name, group in groups.items():
        captioned, captioned_sentences = group.embedded(encoder, counting)
        scores[name] = {
            clip: score_caption(whole[row], captioned[row], sentences[row], captioned_sentences[row])
            for row, clip in enumerate(captions.clips)
        }
    return Judged(scores, _floor(whole, sentences), time.monotonic() - started, counting.total)


def _floor(whole: Sequence[Vectors], sentences: Sequence[Vectors]) -> float | None:
    """Mean hm_cf of each reference with that of the next clip as its caption."""
    others = [(row + 1) % len(whole) for row in range(len(whole))]
    if len(whole) < 2:
        return None
    values = [
        score_caption(whole[row], whole[other], sentences[row], sentences[other]).hm_cf
        for row, other in enumerate(others)
    ]
    return sum(values) / len(values)


@dataclass
class _Counting:
    """Reports the progress of several calls of ``embed`` as one."""

    progress: Progress
    total: int
    done: int = 0

    def __call__(self, done: int, total: int, unit: str, **figures: float) -> None:
        self.progress(self.done + done, self.total, "texts")

    def add(self, texts: int) -> None:
        self.done += texts
        self.progress(self.done, self.total, "texts")


@dataclass(frozen=True)
class _Texts:
    """Texts and their sentences; each distinct string is embedded once."""

    texts: Sequence[str]
    split: Sequence[Sequence[str]]
    strings: Sequence[str]

    def embedded(self, encoder: ItemEncoder, counting: _Counting) -> tuple[list[Vectors], list[Vectors]]:
        """For each text its vector [d], and those of its sentences [n, d]."""
        rows = {text: row for row, text in enumerate(self.strings)}
        vectors = encoder.embed(self.strings, "passage", counting)
        counting.add(len(self.strings))
        whole = [vectors[rows[text]] for text in self.texts]
        return whole, [vectors[[rows[sentence] for sentence in sentences]] for sentences in self.split]


def _distinct(texts: Sequence[str]) -> _Texts:
    split = [sentences_of(text) for text in texts]
    strings = list(dict.fromkeys([*texts, *(sentence for sentences in split for sentence in sentences)]))
    return _Texts(texts, split, strings)


def judge_all(
    encoders: Mapping[str, Callable[[], ItemEncoder]],
    captions: CaptionSet,
    progress: Progress = no_progress,
) -> dict[str, Judged]:
    """What each judge gave, by its name. Judges are opened one after the other: the memory of each is freed before the
    next is loaded."""
    judged: dict[str, Judged] = {}
    for number, (name, open_judge) in enumerate(encoders.items(), 1):
        encoder = open_judge()
        try:
            judged[name] = judge_captions(encoder, captions, _of_judge(progress, name, number, len(encoders)))
        finally:
            encoder.close()
    return judged


def _of_judge(progress: Progress, name: str, number: int, judges: int) -> Progress:
    def report(done: int, total: int, unit: str, **figures: float) -> None:
        progress(done, total, f"{unit} by {name} (judge {number} of {judges})", **figures)

    return report
