"""Texts that are nearly the same: MinHash finds candidates, the sets themselves decide.

Similarity is the Jaccard index of the sets of three-word shingles, case and punctuation aside (Broder, On the
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
MISSED_AGAINST_EXTRA = (0.1, 0.9)
"""How the index weighs pairs it offers for nothing (they are checked) against pairs that it misses."""

SLACK = 0.1
"""The index looks for pairs this much below the threshold, so that few at the threshold are missed."""

WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class NearPair:
    """Places of two texts that are nearly the same, and their similarity."""

    left: int
    right: int
    similarity: float


def shingles(text: str) -> Shingles:
    """Hashes of the text's three-word shingles, sorted, each once; a shorter text is one shingle; int64 [n]."""
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
    """Every pair of a text of ``left`` and one of ``right`` with similarity >= ``threshold``, in order of place.

    A pair at the threshold is found with a chance of about 0.98, a more similar one with nearly 1.
    """
    return _pairs([shingles(text) for text in left], [shingles(text) for text in right], threshold)


def near_pairs_within(texts: Sequence[str], threshold: float) -> list[NearPair]:
    """Every pair of two different places of ``texts`` with similarity >= ``threshold``; ``left`` < ``right``."""
    sets = [shingles(text) for text in texts]
    return [pair for pair in _pairs(sets, sets, threshold) if pair.left < pair.right]


def _pairs(left: Sequence[Shingles], right: Sequence[Shingles], threshold: float) -> list[NearPair]:
    from datasketch import MinHashLSH

    index = MinHashLSH(
        threshold=max(threshold - SLACK, 0.1), num_perm=PERMUTATIONS, weights=MISSED_AGAINST_EXTRA
    )
    for place, found in enumerate(right):
        if len(found):
            index.insert(place, _minhash(found), check_duplication=False)
    pairs: list[NearPair] = []
    for place, wanted in enumerate(left):
        candidates: list[Any] = index.query(_minhash(wanted)) if len(wanted) else []
        for other in sorted(candidates):
            alike = similarity(wanted, right[other])
            if alike >= threshold:
                pairs.append(NearPair(place, other, alike))
    return pairs


def _minhash(hashes: Shingles) -> Any:
    from datasketch import MinHash

    made = MinHash(num_perm=PERMUTATIONS, hashfunc=int)
    made.update_batch(hashes.tolist())
    return made
