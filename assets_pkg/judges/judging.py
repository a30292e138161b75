"""One judge over all captions: every text embedded once, references first, then each captioner's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from assets_pkg.corpus.sentences import split_sentences
from assets_pkg.judges.captions import CaptionSet
from assets_pkg.judges.scoring import CaptionScore, score_caption
from resources.encoders.items import ItemEncoder
from storage.progress import Progress, no_progress

if TYPE_CHECKING:
    from resources.encoders.base import Vectors

Scores = dict[str, dict[str, CaptionScore]]
"""By captioner, by clip."""


def sentences_of(text: str) -> list[str]:
    """The sentences of a text, at least one (CLIP-CC-Bench's are NLTK's, which needs a download)."""
    return [sentence.strip() for sentence in split_sentences(text) if sentence.strip()] or [text]


def judge_captions(encoder: ItemEncoder, captions: CaptionSet, progress: Progress = no_progress) -> Scores:
    """Score every caption of every captioner with one judge.

    Texts are embedded as documents, without a task instruction: the comparison is symmetric. References are
    embedded once, not once for each captioner.
    """
    reader = _Reader(encoder)
    wholes, parts = reader.read([captions.references[clip] for clip in captions.clips])
    scores: Scores = {}
    for number, (name, texts) in enumerate(captions.predictions.items()):
        told, told_parts = reader.read([texts[clip] for clip in captions.clips])
        scores[name] = {
            clip: score_caption(wholes[row], told[row], parts[row], told_parts[row])
            for row, clip in enumerate(captions.clips)
        }
        progress(number + 1, len(captions.predictions), "captioners")
    return scores


class _Reader:
    """Embeds texts and their sentences in one call, each distinct one once."""

    def __init__(self, encoder: ItemEncoder):
        self._encoder = encoder

    def read(self, texts: Sequence[str]) -> tuple[list[Vectors], list[Vectors]]:
        """For each text its vector [d], and its sentences' [n, d]."""
        split = [sentences_of(text) for text in texts]
        distinct = list(dict.fromkeys([*texts, *(sentence for sentences in split for sentence in sentences)]))
        rows = {text: row for row, text in enumerate(distinct)}
        vectors = self._encoder.embed(distinct, "passage")
        whole = [vectors[rows[text]] for text in texts]
        return whole, [vectors[[rows[sentence] for sentence in sentences]] for sentences in split]


def judge_all(
    encoders: Mapping[str, Callable[[], ItemEncoder]],
    captions: CaptionSet,
    progress: Progress = no_progress,
) -> dict[str, Scores]:
    """Every judge in turn; its memory is given back before the next is opened. Scores by judge."""
    made: dict[str, Scores] = {}
    for number, (name, open_judge) in enumerate(encoders.items()):
        encoder = open_judge()
        try:
            made[name] = judge_captions(encoder, captions)
        finally:
            encoder.close()
        progress(number + 1, len(encoders), "judges")
    return made
