"""Which index version is searched: that of the model that is being served, so that whoever embeds a query with the
server, or reads the collection that the alias of a Milvus server names, meets vectors of the same model."""

from __future__ import annotations

from assets_pkg.deploy.deploy import read_state
from assets_pkg.reindex.index import open_index
from storage.artifact_store import ArtifactError, ArtifactStore
from storage.artifacts import VectorIndex
from storage.errors import RetuneError
from storage.paths import INDEX_LINK, STATE_FOLDER


class SearchError(RetuneError):
    """There is no index to search or no model that belongs to it, or a query cannot be embedded."""


def searched_index(store: ArtifactStore) -> VectorIndex:
    """The index of the model that is being served; the current one where no server runs, or one whose model no index
    was built by yet. A query is embedded by the model of the index in any case.

    Raises:
        SearchError: nothing is indexed yet.
        ArtifactError: its files are missing or damaged.
    """
    served = served_model(store)
    return current_index(store) if served is None else index_of(store, served) or current_index(store)


def served_model(store: ArtifactStore) -> str | None:
    """The digest of the model that the deployed server serves; None if none runs."""
    state = read_state(store.root / STATE_FOLDER)
    return state.model_digest if state is not None and state.alive() else None


def current_index(store: ArtifactStore) -> VectorIndex:
    """The index version that ``reindex/index`` points at.

    Raises:
        SearchError: nothing is indexed yet.
        ArtifactError: its files are missing or damaged.
    """
    while True:
        folder = store.resolve(INDEX_LINK)
        if folder is None:
            raise SearchError(
                f"nothing is indexed yet under {store.location}: run `retune run --to reindex` first"
            )
        try:
            return store.get(VectorIndex, "vector_index", folder.name)
        except ArtifactError:
            if store.resolve(INDEX_LINK) == folder:
                raise
            # Another version replaced it, and it was deleted, between resolving the link and reading the version.


def index_of(store: ArtifactStore, digest: str) -> VectorIndex | None:
    """The current index if it was built by the model with this digest, else the newest one that was, if any.

    Raises:
        SearchError: nothing is indexed yet.
    """
    current = current_index(store)
    if current.describe()["model_digest"] == digest:
        return current
    for version in store.versions("vector_index"):
        index = store.get(VectorIndex, "vector_index", version)
        if index.describe()["model_digest"] == digest:
            return index
    return None


def switch_to(store: ArtifactStore, index: VectorIndex) -> None:
    """Make ``index`` the current one. The alias of a Milvus server comes along unless the deployed server serves
    another model that has an index: until the server is replaced, that one is searched.

    Raises:
        VectorStoreError: the Milvus server refuses; nothing was switched.
    """
    served = served_model(store)
    # The Milvus server may refuse, so it is first: search and the alias's readers stay on one version.
    if served in (None, index.describe()["model_digest"]) or not _is_indexed(store, served):
        _activate(index)
    store.link(INDEX_LINK, index.path)


def follow_server(store: ArtifactStore) -> VectorIndex | None:
    """Move the alias of a Milvus server to the index that is searched now; returns it, None if nothing is indexed.

    Raises:
        VectorStoreError: the Milvus server cannot be reached, or refuses.
    """
    if store.resolve(INDEX_LINK) is None:
        return None
    index = searched_index(store)
    _activate(index)
    return index


def disagreements(store: ArtifactStore) -> list[str]:
    """How the server, the current index and the alias of a Milvus server are of different models, in words; empty if
    they are of one.

    Raises:
        SearchError: nothing is indexed yet.
        VectorStoreError: the Milvus server cannot be reached.
    """
    served, current, searched = served_model(store), current_index(store), searched_index(store)
    model = current.describe()["model_digest"]
    found: list[str] = []
    if served not in (None, model):
        found.append(f"the server serves model {served}, and the current index is of {model}")
    if not open_index(searched.path, searched.describe()["place"]).is_active():
        found.append(
            f"the alias on the Milvus server does not name index {searched.version}, which is searched"
        )
    return found


def _is_indexed(store: ArtifactStore, digest: str) -> bool:
    return store.resolve(INDEX_LINK) is not None and index_of(store, digest) is not None


def _activate(index: VectorIndex) -> None:
    open_index(index.path, index.describe()["place"]).activate()
