"""The distance between a served-model folder's vectors and its checkpoint's, on real texts in many batch shapes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from assets_pkg.export.exportable import ExportError
from assets_pkg.export.onnx import load_checkpoint
from assets_pkg.nim.manifest import FolderError, read_manifest
from assets_pkg.nim.model import BadOutputError, OnnxModel, Vectors
from assets_pkg.nim.query_map import read_query_map
from assets_pkg.nim.tokens import Role, TextError, TextTokenizer

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

ROLES: tuple[Role, ...] = ("query", "passage")
BATCH_SIZES = (1, 2, 5, 32)
TEXT_SHARES = (0.002, 0.05, 0.3, 1.0)
"""Shares of each text that are compared, so that lengths range from a word to the whole text."""


@dataclass(frozen=True)
class ShapeParity:
    """The distance in one batch: ``tokens`` is the padded length."""

    role: Role
    rows: int
    tokens: int
    max_cosine_distance: float


@dataclass(frozen=True)
class Parity:
    """How far the exported model is from its checkpoint.

    ``max_cosine_distance`` is the worst over all texts, shapes and roles; ``top10_overlap`` the mean
    share of each text's ten nearest others (by the checkpoint) that the exported model also puts there.
    """

    max_cosine_distance: float
    top10_overlap: float
    texts: int
    shapes: tuple[ShapeParity, ...]


def measure_parity(
    checkpoint: Path, folder: Path, texts: Sequence[str], *, trust_remote_code: bool = False
) -> Parity:
    """Compare a served-model folder with the checkpoint it was exported from, text by text.

    The checkpoint runs under sentence-transformers, from text, in batches of similar length; the export runs on the
    server's own tokenisation, at several batch sizes and all lengths, with padding. So a fault in tokenizer, prefix,
    truncation, padding or graph shows. Roles that do not differ are compared once.

    Raises:
        ValueError: fewer than two different texts.
        ExportError: the folder cannot be served, or its model gives vectors that are not finite.
    """
    texts = list(dict.fromkeys(texts))
    if len(texts) < 2:
        raise ValueError("parity needs at least two different texts")
    try:
        return _measure(load_checkpoint(checkpoint, trust_remote_code=trust_remote_code), folder, texts)
    except (FolderError, TextError, BadOutputError) as error:  # the server's own errors have no base of ours
        raise ExportError(str(error)) from error


def _measure(source: SentenceTransformer, folder: Path, texts: Sequence[str]) -> Parity:
    manifest = read_manifest(folder)
    model, tokenizer = OnnxModel(folder, manifest), TextTokenizer(folder, manifest)
    cuts = _cuts(texts)
    shapes: list[ShapeParity] = []
    overlaps: list[float] = []
    source.max_seq_length = manifest.max_length
    query_map = read_query_map(folder, manifest.dimensions)
    alike = query_map is None and manifest.query_prefix == manifest.passage_prefix
    for role in ROLES[:1] if alike else ROLES:
        reference = _reference(source, role, [manifest.prefix(role) + text for text in cuts])
        rows = tokenizer.encode(cuts, role)
        exported = np.empty_like(reference)
        for batch in _batches([len(row) for row in rows]):
            vectors = model.embed([rows[index] for index in batch])
            exported[batch] = query_map.apply(vectors) if query_map and role == "query" else vectors
            distance = cosine_distances(reference[batch], exported[batch]).max()
            longest = max(len(rows[index]) for index in batch)
            shapes.append(ShapeParity(role, len(batch), longest, float(distance)))
        overlaps.append(neighbour_overlap(reference[-len(texts) :], exported[-len(texts) :]))
    worst = max(shape.max_cosine_distance for shape in shapes)
    return Parity(worst, float(np.mean(overlaps)), len(cuts), tuple(shapes))


def cosine_distances(left: Vectors, right: Vectors) -> npt.NDArray[np.float64]:
    """1 - cosine of each pair of rows, float64 [n], never negative.

    Computed as half the squared distance of the unit vectors: 1 - cosine itself would lose every digit below
    float32's own rounding.
    """
    a, b = left.astype(np.float64), right.astype(np.float64)
    a /= np.linalg.norm(a, axis=1, keepdims=True)
    b /= np.linalg.norm(b, axis=1, keepdims=True)
    return cast(npt.NDArray[np.float64], np.square(a - b).sum(axis=1) / 2)


def neighbour_overlap(left: Vectors, right: Vectors, count: int = 10) -> float:
    """Mean share of each row's ``count`` nearest other rows that is the same on both sides."""
    count = min(count, len(left) - 1)
    shared = [
        len(set(a) & set(b)) / count
        for a, b in zip(_nearest(left, count), _nearest(right, count), strict=True)
    ]
    return float(np.mean(shared))


def _nearest(vectors: Vectors, count: int) -> list[list[int]]:
    scores = vectors @ vectors.T
    np.fill_diagonal(scores, -np.inf)
    return cast(list[list[int]], np.argsort(-scores, axis=1, kind="stable")[:, :count].tolist())


def _cuts(texts: Sequence[str]) -> list[str]:
    """Beginnings of the texts of several lengths, the whole texts last."""
    cuts: list[str] = []
    for share in TEXT_SHARES:
        for text in texts:
            words = text.split(" ")
            cuts.append(" ".join(words[: max(1, round(len(words) * share))]) if share < 1 else text)
    return cuts


def _batches(lengths: Sequence[int]) -> list[list[int]]:
    """Indices in batches of ``BATCH_SIZES`` in rotation, of similar length except for the shortest text, in each.

    So every length and the most padding are covered, and little time goes into computing padding.
    """
    order = sorted(range(len(lengths)), key=lambda index: lengths[index])
    shortest, batches = order[0], list[list[int]]()
    while order:
        size = BATCH_SIZES[len(batches) % len(BATCH_SIZES)]
        extra = [shortest] if size > 1 and shortest not in order[:size] else []
        batches.append(extra + order[:size])
        order = order[size:]
    return batches


def _reference(source: SentenceTransformer, role: Role, texts: Sequence[str]) -> Vectors:
    """The checkpoint's own embeddings: float32 [n, dimensions], rows of length 1."""
    encode = source.encode_query if role == "query" else source.encode_document
    encoded: Any = encode(
        list(texts), prompt="", batch_size=16, normalize_embeddings=True, show_progress_bar=False
    )
    return np.asarray(encoded, dtype=np.float32)
