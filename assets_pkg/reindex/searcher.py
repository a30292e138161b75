"""Search over the current index, with the model that built it and no other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from assets_pkg.deploy.server import read_state
from assets_pkg.equipment import encoders_for
from assets_pkg.profile import ModelSettings
from assets_pkg.reindex.index import open_index
from resources.encoders.base import Encoder, Role
from resources.vector_store.base import Hit
from storage.artifact_store import ArtifactStore
from storage.artifacts import Checkpoint, VectorIndex
from storage.vectors import leading

if TYPE_CHECKING:
    import numpy as np

INDEX_LINK = "reindex/index"
ONNX_LINK = "stage4_export/onnx"
STATE_FOLDER = "stage5_deploy"
FUSION_CONSTANT = 60
FUSION_DEPTH = 100


class SearchError(Exception):
    """There is no index to search, or no model that belongs to it."""


class QueryEncoder(Protocol):
    """The part of an encoder that search needs."""

    def embed(self, texts: Sequence[str], role: Role) -> np.ndarray: ...


@dataclass(frozen=True)
class Searcher:
    """An open index and an encoder of the very model that the index names."""

    index: VectorIndex
    encoder: QueryEncoder

    def search(self, text: str, k: int = 10, where: str | None = None, *, hybrid: bool = False) -> list[Hit]:
        """The ``k`` passages nearest to ``text``, best first.

        ``where`` is a condition over the index's columns in the engine's language (LanceDB: SQL). ``hybrid``
        fuses vector and full-text search by reciprocal rank (Cormack et al. 2009, constant 60).

        Raises:
            VectorStoreError: the condition makes no sense, or the engine has no full-text search.
        """
        described = self.index.describe()
        opened = open_index(self.index.path, described["place"])
        vector = leading(self.encoder.embed([text], "query"), described["dimensions"])[0]
        if not hybrid:
            return opened.search(vector, k, where)
        deep = max(k, FUSION_DEPTH)
        return fuse([opened.search(vector, deep, where), opened.search_text(text, deep, where)])[:k]


def fuse(rankings: Sequence[Sequence[Hit]]) -> list[Hit]:
    """Reciprocal rank fusion: each hit's score is the sum of 1 / (60 + rank) over the rankings it is in."""
    scores: dict[tuple[str, int], float] = {}
    hits: dict[tuple[str, int], Hit] = {}
    for ranking in rankings:
        for rank, hit in enumerate(ranking, start=1):
            place = (hit.doc_id, hit.chunk_id)
            scores[place] = scores.get(place, 0.0) + 1 / (FUSION_CONSTANT + rank)
            hits[place] = hit
    order = sorted(scores, key=lambda place: (-scores[place], place))
    return [replace(hits[place], score=scores[place]) for place in order]


@contextmanager
def open_searcher(store: ArtifactStore, model: ModelSettings) -> Iterator[Searcher]:
    """The index of the model that is being served, or the current one where no server runs; queries go through
    that very model: its ONNX export where there is one, else the checkpoint.

    Raises:
        SearchError: nothing is indexed yet, not by the served model, or the model is no longer in the store.
    """
    state = read_state(store.root / STATE_FOLDER)
    served = state.model_digest if state is not None and state.alive() else None
    index = current_index(store) if served is None else index_of(store, served)
    digest = index.describe()["model_digest"]
    exported = exported_encoder(store, digest)
    if exported is not None:
        yield Searcher(index, exported)
        return
    with checkpoint_encoder(store, model, find_model(store, digest)) as encoder:
        yield Searcher(index, encoder)


def current_index(store: ArtifactStore) -> VectorIndex:
    """The index version that ``reindex/index`` points at."""
    folder = store.resolve(INDEX_LINK)
    if folder is None or not folder.exists():
        raise SearchError(f"nothing is indexed yet under {store.place}: run `retune run --to reindex` first")
    return store.get(VectorIndex, "vector_index", folder.name)


def index_of(store: ArtifactStore, digest: str) -> VectorIndex:
    """The current index if it was built by the model with this digest, else the newest one that was."""
    current = current_index(store)
    if current.describe()["model_digest"] == digest:
        return current
    for version in store.versions("vector_index"):
        index = store.get(VectorIndex, "vector_index", version)
        if index.describe()["model_digest"] == digest:
            return index
    raise SearchError(
        f"no index was built by the served model {digest}: run `retune reindex`, or redeploy with `retune deploy`"
    )


def exported_encoder(store: ArtifactStore, digest: str) -> QueryEncoder | None:
    """The ONNX export of the model with this digest (no torch to load), if it is the current export."""
    from assets_pkg.nim.engine import OnnxEncoder
    from assets_pkg.nim.manifest import read_manifest

    exported = store.resolve(ONNX_LINK)
    if exported is not None and exported.exists() and read_manifest(exported).model_digest == digest:
        return OnnxEncoder(exported)
    return None


def find_model(store: ArtifactStore, digest: str) -> Checkpoint:
    """The fine-tuned or base model with this digest.

    Raises:
        SearchError: the store has it no longer.
    """
    for asset in ("checkpoint", "base_model"):
        if digest in store.versions(asset):
            return store.get(Checkpoint, asset, digest)
    raise SearchError(
        f"the index was built by model {digest}, which is no longer in {store.place}: run `retune reindex`"
    )


def checkpoint_encoder(
    store: ArtifactStore, model: ModelSettings, checkpoint: Checkpoint
) -> AbstractContextManager[Encoder]:
    """The encoder of a checkpoint on this machine, with cached vectors."""
    return encoders_for(store.root, model).open(checkpoint)
