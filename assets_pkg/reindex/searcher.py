"""Search over the current index, with the model that built it and no other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from assets_pkg.equipment import encoders_for
from assets_pkg.profile import ModelSettings
from resources.encoders.base import Encoder, Role
from resources.vector_store.base import Hit
from resources.vector_store.lance import LanceIndex
from storage.artifact_store import ArtifactStore
from storage.artifacts import Checkpoint, VectorIndex
from storage.vectors import leading

if TYPE_CHECKING:
    import numpy as np

INDEX_LINK = "reindex/index"
ONNX_LINK = "stage4_export/onnx"


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

    def search(self, text: str, k: int = 10, where: str | None = None) -> list[Hit]:
        """The ``k`` passages nearest to ``text``, best first."""
        described = self.index.describe()
        vector = leading(self.encoder.embed([text], "query"), described["dimensions"])[0]
        return LanceIndex(self.index.path / "lancedb").search(vector, k, where)


@contextmanager
def open_searcher(store: ArtifactStore, model: ModelSettings) -> Iterator[Searcher]:
    """The current index with its own model: its ONNX export where there is one, else the checkpoint.

    Raises:
        SearchError: nothing is indexed yet, or the index's model is no longer in the store.
    """
    index = current_index(store)
    digest = index.describe()["model_digest"]
    exported = exported_encoder(store, digest)
    if exported is not None:
        yield Searcher(index, exported)
        return
    with checkpoint_encoder(store, model, find_model(store, digest)) as encoder:
        yield Searcher(index, encoder)


def current_index(store: ArtifactStore) -> VectorIndex:
    """The index version that ``reindex/index`` points at."""
    folder = (store.root / INDEX_LINK).resolve()
    if not folder.exists():
        raise SearchError(f"nothing is indexed yet under {store.root}: run `retune run --to reindex` first")
    return store.get(VectorIndex, "vector_index", folder.name)


def exported_encoder(store: ArtifactStore, digest: str) -> QueryEncoder | None:
    """The ONNX export of the model with this digest (no torch to load), if it is the current export."""
    from assets_pkg.nim.engine import OnnxEncoder
    from assets_pkg.nim.manifest import read_manifest

    exported = (store.root / ONNX_LINK).resolve()
    if exported.exists() and read_manifest(exported).model_digest == digest:
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
        f"the index was built by model {digest}, which is no longer in {store.root}: run `retune reindex`"
    )


def checkpoint_encoder(
    store: ArtifactStore, model: ModelSettings, checkpoint: Checkpoint
) -> AbstractContextManager[Encoder]:
    """The encoder of a checkpoint on this machine, with cached vectors."""
    return encoders_for(store.root, model).open(checkpoint)
