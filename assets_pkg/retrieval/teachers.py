"""Teachers: what ranks passages better than the base model alone, so that a model can learn its scores, and false
negatives be found.

Every teacher gives each question a list of candidates with scores from 0 (its worst candidate) to 1 (its best).
"""

from __future__ import annotations

import tempfile
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from assets_pkg.retrieval.errors import TeacherError
from assets_pkg.retrieval.exact_search import exact_search
from assets_pkg.retrieval.passage_rows import passage_rows
from assets_pkg.retrieval.search_method import FUSION_DEPTH, SearchMethod
from resources.encoders.base import Encoder
from resources.encoders.cached_items import CachedItems
from resources.encoders.factory import look_up, open_encoder
from resources.machine.accelerator import Accelerator
from resources.models.naming import ModelNameError, find_named
from resources.models.registry import load_registry
from resources.vector_store.base import index_schema
from resources.vector_store.lance import LanceIndex
from storage.digests import digest_file, digest_json, digest_text
from storage.embedding_cache import EmbeddingCache
from storage.progress import Progress, no_progress

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from sentence_transformers import CrossEncoder

LEXICAL = "lexical"
DEFAULT_SHARE = 0.5
NO_CANDIDATE = -1
LISTS_AT_ONCE = 64
"""Lists that a cross-encoder scores between two commits: the most that a killed process loses."""

ROWS_AT_ONCE = 4096
"""Passages whose vectors are in memory at once."""


@dataclass(frozen=True)
class Ranking:
    """Candidates of each question, best first: ``passages`` int64 [n, k], indices, -1 where there are fewer than k;
    ``scores`` float32 [n, k], from 0 to 1."""

    passages: NDArray[np.int64]
    scores: NDArray[np.float32]


class Teacher(Protocol):
    """Ranks the passages that it was opened for."""

    def rank(
        self, questions: Sequence[str], excluded: Sequence[int], k: int, progress: Progress = no_progress
    ) -> Ranking:
        """The ``k`` best candidates of every question.

        Args:
            excluded: for each question the index of a passage that is no candidate, or -1.
        """
        ...


class LexicalTeacher:
    """The base model's vectors and BM25, fused as ``convex`` search fuses them."""

    def __init__(self, passages: Sequence[str], base: Encoder, share: float, folder: Path):
        self._base = base
        self._method = SearchMethod("convex", share)
        self._index = LanceIndex(folder)
        names = [str(number) for number in range(len(passages))]
        parts = [slice(start, start + ROWS_AT_ONCE) for start in range(0, len(passages), ROWS_AT_ONCE)]
        rows = (
            passage_rows(names[part], passages[part], base.embed(passages[part], "passage")) for part in parts
        )
        self._index.write(rows, index_schema(base.dimensions))

    def rank(
        self, questions: Sequence[str], excluded: Sequence[int], k: int, progress: Progress = no_progress
    ) -> Ranking:
        vectors = self._base.embed(questions, "query")
        found = Ranking(
            np.full((len(questions), k), NO_CANDIDATE, np.int64), np.zeros((len(questions), k), np.float32)
        )
        depth = max(FUSION_DEPTH, k)
        for row, (question, vector, left_out) in enumerate(zip(questions, vectors, excluded, strict=True)):
            hits = (self._index.search(vector, depth), self._index.search_text(question, depth))
            kept = [[hit for hit in each if int(hit.doc_id) != left_out] for each in hits]
            best = self._method.rank(*kept)[:k]
            found.passages[row, : len(best)] = [int(hit.doc_id) for hit in best]
            found.scores[row, : len(best)] = [hit.score for hit in best]
            progress(row + 1, len(questions), "questions taught")
        return found


class EncoderTeacher:
    """The cosines of another encoder."""

    def __init__(self, passages: Sequence[str], encoder: CachedItems):
        self._encoder = encoder
        self._passages = encoder.embed(passages, "passage")

    def rank(
        self, questions: Sequence[str], excluded: Sequence[int], k: int, progress: Progress = no_progress
    ) -> Ranking:
        vectors = self._encoder.embed(questions, "query", progress)
        left_out = [[each] if each >= 0 else [] for each in excluded]
        found = exact_search(vectors, self._passages, k, excluded=left_out)
        return Ranking(found.ids, _scaled(found.ids, found.scores))


class CrossEncoderTeacher:
    """A cross-encoder's scores of the lexical teacher's candidates. Each list is scored once: its scores are cached by
    the digests of the model, the question and the candidates."""

    def __init__(
        self,
        passages: Sequence[str],
        candidates: LexicalTeacher,
        name: str,
        accelerator: Accelerator,
        cache: EmbeddingCache,
    ):
        self._passages = passages
        self._candidates = candidates
        self._named = _cross_encoder(name)
        self._accelerator = accelerator
        self._cache = cache
        self.scored = 0

    def rank(
        self, questions: Sequence[str], excluded: Sequence[int], k: int, progress: Progress = no_progress
    ) -> Ranking:
        found = self._candidates.rank(questions, excluded, k)
        kept = [row[row >= 0] for row in found.passages]
        keys = [self._key(text, rows) for text, rows in zip(questions, kept, strict=True)]
        known = self._cache.get(self._identity, keys)
        missing = [row for row, key in enumerate(keys) if key not in known]
        for start in range(0, len(missing), LISTS_AT_ONCE):
            block = missing[start : start + LISTS_AT_ONCE]
            progress(len(questions) - len(missing) + start, len(questions), "questions taught")
            scores = self._score([questions[row] for row in block], [kept[row] for row in block])
            for row, each in zip(block, scores, strict=True):
                self._cache.put(self._identity, [keys[row]], each[None, :])
                known[keys[row]] = each
        progress(len(questions), len(questions), "questions taught")
        raw = np.full(found.scores.shape, np.nan)
        for row, key in enumerate(keys):
            raw[row, : len(kept[row])] = known[key]
        order = np.argsort(-raw, axis=1, kind="stable")  # NaN, where there is none, comes last
        passages = np.take_along_axis(found.passages, order, axis=1)
        return Ranking(passages, _scaled(passages, np.take_along_axis(raw, order, axis=1)))

    def _score(
        self, questions: Sequence[str], rows: Sequence[NDArray[np.int64]]
    ) -> list[NDArray[np.float32]]:
        pairs = [
            (question, self._passages[row])
            for question, own in zip(questions, rows, strict=True)
            for row in own
        ]
        scores: Any = self._model.predict(pairs, show_progress_bar=False)
        self.scored += len(rows)
        flat = np.asarray(scores, dtype=np.float32)
        if flat.ndim != 1:
            raise TeacherError(
                f"teacher {self._named!r}: it gives {flat.shape[1]} numbers for a pair, not one score"
            )
        if not np.isfinite(flat).all():
            raise TeacherError(f"teacher {self._named!r}: it gives scores that are not finite")
        return np.split(flat, np.cumsum([len(own) for own in rows])[:-1])

    def _key(self, question: str, rows: NDArray[np.int64]) -> str:
        listed: list[int] = rows.tolist()
        return digest_json([digest_text(question), *(digest_text(self._passages[row]) for row in listed)])

    @cached_property
    def _identity(self) -> str:
        weights = sorted(Path(self._named).rglob("*.safetensors")) if Path(self._named).is_dir() else []
        return digest_json(["cross-encoder", self._named, *(digest_file(path) for path in weights)])

    @cached_property
    def _model(self) -> CrossEncoder:
        from sentence_transformers import CrossEncoder

        try:
            return CrossEncoder(self._named, device=self._accelerator.device)
        except Exception as error:
            raise TeacherError(
                f"teacher {self._named!r}: no cross-encoder could be loaded from there "
                f"({type(error).__name__}: {str(error).splitlines()[0]})"
            ) from error


@contextmanager
def open_teacher(
    name: str, passages: Sequence[str], base: Encoder, accelerator: Accelerator, cache: EmbeddingCache
) -> Generator[Teacher]:
    """The teacher that ``finetune.teacher`` names, over these passages.

    Args:
        name: ``lexical``, ``lexical:SHARE``, a model of the registry, or a cross-encoder's folder or hub id.
        base: the encoder of the base model.
        cache: keeps vectors and scores.

    Raises:
        TeacherError: there is no such teacher, or it cannot be used.
    """
    with tempfile.TemporaryDirectory(prefix="retune-teacher-") as folder:
        share = lexical_share(name)
        if share is None and (encoder := _registered(name, accelerator, cache)) is not None:
            try:
                yield EncoderTeacher(passages, encoder)
            finally:
                encoder.close()
            return
        lexical = LexicalTeacher(passages, base, share or DEFAULT_SHARE, Path(folder))
        if share is not None:
            yield lexical
        else:
            yield CrossEncoderTeacher(passages, lexical, name, accelerator, cache)


def lexical_share(name: str) -> float | None:
    """The base's share in a lexical teacher; None for any other teacher.

    Raises:
        TeacherError: the share is not a number between 0 and 1.
    """
    kind, _, share = name.partition(":")
    if kind != LEXICAL:
        return None
    try:
        value = float(share or DEFAULT_SHARE)
    except ValueError:
        value = 0.0
    if not 0 < value < 1:
        raise TeacherError(f"teacher {name!r}: lexical:SHARE needs a number between 0 and 1")
    return value


def _registered(name: str, accelerator: Accelerator, cache: EmbeddingCache) -> CachedItems | None:
    """The encoder of the registry with this name; None where it has none."""
    try:
        entry = find_named(name).entry
    except ModelNameError:
        return None  # the cross-encoder's error names it
    if entry is None:
        return None
    return CachedItems(open_encoder(look_up(load_registry(), name), accelerator), cache)


def _cross_encoder(name: str) -> str:
    """What sentence-transformers loads: the folder, or the hub id."""
    try:
        named = find_named(name)
    except ModelNameError as error:
        raise TeacherError(f"teacher {error}; or write lexical: the base model and BM25 together") from error
    return str(named.folder or named.hub_id)


def _scaled(passages: NDArray[np.int64], scores: NDArray[Any]) -> NDArray[np.float32]:
    """Scores from 0, of a list's worst candidate, to 1; 0 where there is none."""
    real = np.where(passages >= 0, scores, np.nan)
    lowest, highest = np.nanmin(real, axis=1, keepdims=True), np.nanmax(real, axis=1, keepdims=True)
    width = np.where(highest > lowest, highest - lowest, 1.0)
    return np.nan_to_num((real - lowest) / width, nan=0.0).astype(np.float32)
