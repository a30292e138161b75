"""What is searched: the current index, with the model that built it and no other."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

from assets_pkg.deploy.server import read_state
from assets_pkg.equipment import encoders_for
from assets_pkg.reindex.following import CHECK_EVERY_S, Searcher
from assets_pkg.reindex.reader import QueryEncoder
from assets_pkg.settings import ModelSettings
from resources.encoders.base import Encoder
from storage.artifact_store import ArtifactError, ArtifactStore
from storage.artifacts import Checkpoint, VectorIndex

INDEX_LINK = "reindex/index"
ONNX_LINK = "stage4_export/onnx"
STATE_FOLDER = "stage5_deploy"


class SearchError(Exception):
    """There is no index to search, or no model that belongs to it."""


def open_searcher(
    store: ArtifactStore, model: ModelSettings, check_every_s: float = CHECK_EVERY_S
) -> AbstractContextManager[Searcher]:
    """A `Searcher` of the model that is being served, or of the current index where no server runs; queries go
    through that very model: its ONNX export where there is one, else the checkpoint. It follows both.

    Raises:
        SearchError: nothing is indexed yet, not by the served model, or the model is no longer in the store.
    """

    def open_encoder(index: VectorIndex) -> AbstractContextManager[QueryEncoder]:
        described = index.describe()
        # Prefixes and lengths as the passages had them, whatever the profile says by now.
        then = model.model_copy(update=described["contract"])
        exported = exported_encoder(store, described["model_digest"], then.query_prefix)
        if exported is not None:
            return nullcontext(exported)
        return checkpoint_encoder(store, then, find_model(store, described["model_digest"]))

    return Searcher(lambda: wanted_index(store), open_encoder, check_every_s)


def wanted_index(store: ArtifactStore) -> VectorIndex:
    """The index of the model that is being served, or the current one where no server runs.

    Raises:
        SearchError: nothing is indexed yet, or not by the served model.
    """
    state = read_state(store.root / STATE_FOLDER)
    served = state.model_digest if state is not None and state.alive() else None
    return current_index(store) if served is None else index_of(store, served)


def current_index(store: ArtifactStore) -> VectorIndex:
    """The index version that ``reindex/index`` points at.

    Raises:
        SearchError: nothing is indexed yet.
        ArtifactError: its files are gone or damaged.
    """
    while True:
        folder = store.resolve(INDEX_LINK)
        if folder is None:
            raise SearchError(
                f"nothing is indexed yet under {store.place}: run `retune run --to reindex` first"
            )
        try:
            return store.get(VectorIndex, "vector_index", folder.name)
        except ArtifactError:
            if store.resolve(INDEX_LINK) == folder:
                raise
            # It was replaced and deleted between the two looks.


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


def exported_encoder(store: ArtifactStore, digest: str, query_prefix: str) -> QueryEncoder | None:
    """The ONNX export of the model with this digest (no torch to load), if it is the current export and has this
    prefix."""
    from assets_pkg.nim.engine import OnnxEncoder
    from assets_pkg.nim.manifest import read_manifest

    exported = store.resolve(ONNX_LINK)
    if exported is None or not exported.exists():
        return None
    made = read_manifest(exported)
    return OnnxEncoder(exported) if (made.model_digest, made.query_prefix) == (digest, query_prefix) else None


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
