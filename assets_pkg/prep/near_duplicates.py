"""Near duplicates among texts: MinHash finds candidate pairs, whose exact similarity is then computed.

Similarity is the Jaccard index of the sets of three-word shingles, without case and punctuation (Broder, On the
resemblance and containment of documents, 1997). MinHash and its LSH index are datasketch's.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Shingles = NDArray[np.int64]

WORDS_PER_SHINGLE = 3
PERMUTATIONS = 128
ERROR_WEIGHTS = (0.1, 0.9)
"""Weights of false positives (which are checked) and false negatives of the index."""

SLACK = 0.1
"""How far the threshold of the index is below ``threshold``, so that few pairs at the threshold are missed."""

WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class NearPair:
    """Indices of two near duplicates, and their similarity."""

    left: int
    right: int
    similarity: float


def shingles(text: str) -> Shingles:
    """CRC-32 of the text's distinct three-word shingles, sorted, int64 [n]; a shorter text is one shingle."""
    words = WORD.findall(text.casefold())
    if not words:
        return np.empty(0, dtype=np.int64)
    count = max(1, len(words) - WORDS_PER_SHINGLE + 1)
    parts = (" ".join(words[start : start + WORDS_PER_SHINGLE]) for start in range(count))
    return np.unique(np.fromiter((zlib.crc32(part.encode()) for part in parts), dtype=np.int64))


def similarity(left: Shingles, right: Shingles) -> float:
    """The Jaccard index of two sets of shingles; 0 where both are empty."""
    shared = len(np.intersect1d(left, right, assume_unique=True))
    return shared / max(1, len(left) + len(right) - shared)


def near_pairs(left: Sequence[str], right: Sequence[str], threshold: float) -> list[NearPair]:
    """Every pair of a text of ``left`` and one of ``right`` with similarity >= ``threshold``, by index.

    A pair at the threshold is found with a probability of about 0.98, a more similar one with nearly 1.
    """
    return _pairs([shingles(text) for text in left], [shingles(text) for text in right], threshold)


def near_pairs_within(texts: Sequence[str], threshold: float) -> list[NearPair]:
    """Every pair of two of ``texts`` with similarity >= ``threshold``; ``left`` < ``right``."""
    sets = [shingles(text) for text in texts]
    return [pair for pair in _pairs(sets, sets, threshold) if pair.left < pair.right]


def _pairs(left: Sequence[Shingles], right: Sequence[Shingles], threshold: float) -> list[NearPair]:
    from datasketch import MinHashLSH

    index = MinHashLSH(threshold=max(threshold - SLACK, 0.1), num_perm=PERMUTATIONS, weights=ERROR_WEIGHTS)
    for row, found in enumerate(right):
        if len(found):
            index.insert(row, _minhash(found), check_duplication=False)
    pairs: list[NearPair] = []
    for row, query in enumerate(left):
        candidates: list[Any] = index.query(_minhash(query)) if len(query) else []
        for other in sorted(candidates):
            exact = similarity(query, right[other])
            if exact >= threshold:
                pairs.append(NearPair(row, other, exact))
    return pairs


def _minhash(hashes: Shingles) -> Any:
    from datasketch import MinHash

    made = MinHash(num_perm=PERMUTATIONS, hashfunc=int)
    made.update_batch(hashes.tolist())
    return made
