"""What is counted on the vectors of pairs: row i of the texts belongs to row i of the images.

The mean cosine distance of color-perception-bench comes first, and says little by itself: a model that gives every
image the same vector scores better on it than many real ones. So there is the retrieval of the right partner among
all, both ways, and what separates right from wrong.
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
"""Cosines that agree to so many decimals are ties: two equal vectors may differ by rounding."""

ORIGIN_COLUMNS = ("n", "mean", "median", "std", "variance", "min", "max")


@dataclass(frozen=True)
class Ranks:
    """Where the right partner of each query stands: behind ``greater`` others, among ``equal`` (itself included)
    that score the same. Both int64 [n]. Ties are resolved in expectation over a random order, so that a constant
    model gets what chance gives and not what the order of rows gives."""

    greater: NDArray[np.int64]
    equal: NDArray[np.int64]

    def hits(self, k: int) -> Matrix:
        """Probability that the right one is among the first k: float64 [n]."""
        import numpy as np

        return np.clip((k - self.greater) / self.equal, 0, 1)

    def reciprocal(self) -> Matrix:
        """Expected reciprocal rank: float64 [n]."""
        import numpy as np

        last = int((self.greater + self.equal).max())
        harmonic = np.concatenate([[0.0], np.cumsum(1 / np.arange(1, last + 1))])
        return (harmonic[self.greater + self.equal] - harmonic[self.greater]) / self.equal


def origin_distances(texts: Vectors, images: Vectors) -> dict[str, float]:
    """The origin's figures of 1 - cosine of each pair (std and variance with ddof 0)."""
    import numpy as np

    distances = 1 - (texts.astype(np.float64) * images.astype(np.float64)).sum(axis=1)
    values = [
        len(distances), distances.mean(), np.median(distances), distances.std(), distances.var(), distances.min(),
        distances.max(),
    ]  # fmt: skip
    return dict(zip(ORIGIN_COLUMNS, map(float, values), strict=True))


def right_partner_ranks(similarities: Matrix) -> Ranks:
    """Ranks of the diagonal in each row of [n, n] similarities."""
    import numpy as np

    rounded = similarities.round(TIE_DECIMALS)
    right = np.diagonal(rounded)[:, None]
    return Ranks((rounded > right).sum(axis=1), (rounded == right).sum(axis=1))


def retrieval(ways: Mapping[str, Ranks], recall_at: Sequence[int]) -> dict[str, float]:
    """Recall at each k and MRR, by way (text to image, image to text)."""
    figures: dict[str, float] = {}
    for way, ranks in ways.items():
        for k in recall_at:
            figures[f"R@{k} {way}"] = float(ranks.hits(k).mean())
        figures[f"MRR {way}"] = float(ranks.reciprocal().mean())
    return figures


def separation(similarities: Matrix, texts: Vectors, images: Vectors) -> dict[str, float]:
    """``margin``: mean cosine of right pairs less that of all wrong ones; ``hard_margin``: less that of each text's
    best wrong image. ``modality_gap``: distance of the two centroids (arXiv 2203.02053)."""
    import numpy as np

    n = len(similarities)
    right = np.diagonal(similarities)
    wrong = (similarities.sum() - right.sum()) / (n * (n - 1))
    others = similarities.copy()
    np.fill_diagonal(others, -np.inf)
    gap = texts.astype(np.float64).mean(axis=0) - images.astype(np.float64).mean(axis=0)
    return {
        "margin": float(right.mean() - wrong),
        "hard_margin": float((right - others.max(axis=1)).mean()),
        "modality_gap": float(np.linalg.norm(gap)),
    }


def colour_figures(
    differences: Matrix, similarities: Matrix, texts: Vectors, images: Vectors
) -> dict[str, float]:
    """Does closeness of vectors follow closeness of colours? Spearman correlation of CIE differences with distances
    among images and among texts, over all pairs of colours; and the difference between the colour that was asked
    for and the one that was found first."""
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
    """Mean difference between what was asked for and what came first; ties share their place."""
    best = similarities == similarities.max(axis=1, keepdims=True)
    return float(((best * differences).sum(axis=1) / best.sum(axis=1)).mean())


def _spearman(first: Matrix, second: Matrix) -> float:
    """Spearman's rho; 0 where one side does not vary (it then follows nothing)."""
    import numpy as np
    from scipy.stats import rankdata

    second = second.round(TIE_DECIMALS)
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return 0.0
    return float(np.corrcoef(rankdata(first), rankdata(second))[0, 1])
