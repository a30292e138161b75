"""Measures on the vectors of pairs: row i of the texts belongs to row i of the images.

The mean cosine distance of color-perception-bench is not enough: a model that gives every image the same vector scores
better on it than many real models. Therefore the partner's rank among all is measured too, in both directions, and the
margin between matching and other pairs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Vectors = NDArray[np.float32]
    Matrix = NDArray[np.float64]

TIE_DECIMALS = 6
"""Cosines that agree to this many decimals are ties: those of two equal vectors may differ by rounding."""

DISTANCE_COLUMNS = ("n", "mean", "median", "std", "variance", "min", "max")


@dataclass(frozen=True)
class Ranks:
    """Ranks of each query's partner. ``greater``: how many candidates score higher; ``equal``: how many score the same,
    itself included. Both int64 [n]. Measures are expectations over random orders of ties, so that a constant model
    scores as chance and not by the order of rows."""

    greater: NDArray[np.int64]
    equal: NDArray[np.int64]

    def hits(self, k: int) -> Matrix:
        """Probability that the partner is among the first k: float64 [n]."""
        import numpy as np

        return np.clip((k - self.greater) / self.equal, 0, 1)

    def reciprocal(self) -> Matrix:
        """Expected reciprocal rank: float64 [n]."""
        import numpy as np

        last = int((self.greater + self.equal).max())
        harmonic = np.concatenate([[0.0], np.cumsum(1 / np.arange(1, last + 1))])
        return (harmonic[self.greater + self.equal] - harmonic[self.greater]) / self.equal


def distance_statistics(texts: Vectors, images: Vectors) -> dict[str, float]:
    """color-perception-bench's statistics of 1 - cosine of the pairs; std and variance with ddof 0."""
    import numpy as np

    distances = 1 - (texts.astype(np.float64) * images.astype(np.float64)).sum(axis=1)
    values = [
        len(distances), distances.mean(), np.median(distances), distances.std(), distances.var(), distances.min(),
        distances.max(),
    ]  # fmt: skip
    return dict(zip(DISTANCE_COLUMNS, map(float, values), strict=True))


def partner_ranks(similarities: Matrix) -> Ranks:
    """Ranks of the diagonal entries in their rows of ``similarities`` [n, n]."""
    import numpy as np

    rounded = similarities.round(TIE_DECIMALS)
    partner = np.diagonal(rounded)[:, None]
    return Ranks((rounded > partner).sum(axis=1), (rounded == partner).sum(axis=1))


def retrieval(directions: Mapping[str, Ranks], recall_at: Sequence[int]) -> dict[str, float]:
    """Recall at each k and MRR, by direction (``t2i``, ``i2t``)."""
    figures: dict[str, float] = {}
    for direction, ranks in directions.items():
        for k in recall_at:
            figures[f"R@{k} {direction}"] = float(ranks.hits(k).mean())
        figures[f"MRR {direction}"] = float(ranks.reciprocal().mean())
    return figures


def separation(similarities: Matrix, texts: Vectors, images: Vectors) -> dict[str, float]:
    """``margin``: mean cosine of pairs minus that of all other combinations; ``hard_margin``: minus that of each text
    with its best other image. ``modality_gap``: distance of the two centroids (arXiv 2203.02053)."""
    import numpy as np

    n = len(similarities)
    paired = np.diagonal(similarities)
    unpaired = (similarities.sum() - paired.sum()) / (n * (n - 1))
    others = similarities.copy()
    np.fill_diagonal(others, -np.inf)
    gap = texts.astype(np.float64).mean(axis=0) - images.astype(np.float64).mean(axis=0)
    return {
        "margin": float(paired.mean() - unpaired),
        "hard_margin": float((paired - others.max(axis=1)).mean()),
        "modality_gap": float(np.linalg.norm(gap)),
    }


def colour_figures(
    differences: Matrix, similarities: Matrix, texts: Vectors, images: Vectors
) -> dict[str, float]:
    """Whether distances of vectors follow differences of colours: Spearman correlation of CIE differences with cosine
    distances of images and of texts, over all pairs of colours; and the mean difference between a query's colour and
    that of the first result."""
    import numpy as np

    upper = np.triu_indices(len(differences), k=1)
    colours = differences[upper]
    first = similarities.round(TIE_DECIMALS)
    return {
        "spearman images": _spearman(colours, 1 - _cosines(images)[upper]),
        "spearman texts": _spearman(colours, 1 - _cosines(texts)[upper]),
        "first dE t2i": float(_expected_first(first, differences)),
        "first dE i2t": float(_expected_first(first.T, differences)),
        "chance dE": float(differences[~np.eye(len(differences), dtype=bool)].mean()),
    }


def cosines(texts: Vectors, images: Vectors) -> Matrix:
    """Cosine of every text with every image: float64 [n, n]."""
    return texts.astype("float64") @ images.astype("float64").T


def _cosines(vectors: Vectors) -> Matrix:
    return cosines(vectors, vectors)


def _expected_first(similarities: Matrix, differences: Matrix) -> float:
    """Mean difference between the query's colour and that of the first result; the mean over ties."""
    best = similarities == similarities.max(axis=1, keepdims=True)
    return float(((best * differences).sum(axis=1) / best.sum(axis=1)).mean())


def _spearman(first: Matrix, second: Matrix) -> float:
    """Spearman's rho; 0 if one side is constant."""
    import numpy as np
    from scipy.stats import rankdata

    second = second.round(TIE_DECIMALS)
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return 0.0
    return float(np.corrcoef(rankdata(first), rankdata(second))[0, 1])
