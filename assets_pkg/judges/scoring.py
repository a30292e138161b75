"""CLIP-CC-Bench's scores of one caption against its reference (arXiv 2608.04302), from unit vectors."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Vectors = NDArray[np.float32]

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
    """Score one caption. ``reference`` and ``caption`` float32 [d], the sentences float32 [n, d], unit length."""
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
