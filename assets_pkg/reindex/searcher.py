"""Search by the current index and the model that built it, without interruption while the index is replaced.

From bottom to top: the model to search with, one open version (:class:`IndexReader`), and the
:class:`Searcher` that follows the versions. Importing this module loads neither Dagster nor torch.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Generic, Protocol, Self, TypeVar

from assets_pkg.config.base import ModelSettings
from assets_pkg.reindex.index import open_index
from assets_pkg.reindex.searched_index import SearchError, searched_index
from assets_pkg.retrieval.search_method import DENSE, FUSION_DEPTH, SearchMethod
from resources.encoders.base import Encoder, Role
from resources.encoders.recipe import EncoderRecipe
from resources.vector_store.base import Hit
from storage.artifact_store import ArtifactStore
from storage.artifacts import CHECKPOINTS, Checkpoint, SearchChoice, VectorIndex
from storage.digests import digest_json
from storage.paths import EMBEDDING_CACHE, ONNX_LINK, SEARCH_METHODS
from storage.vectors import truncate

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

CHECK_EVERY_S = 1.0
WARM_UP_QUERY = "a query that loads the model"

T = TypeVar("T")
log = logging.getLogger(__name__)


class QueryEncoder(Protocol):
    """The part of an encoder that search needs."""

    def embed(self, texts: Sequence[str], /, role: Role) -> NDArray[np.float32]: ...


@dataclass(frozen=True)
class Answer:
    """The hits, best first, and where they come from: the index version and the digest of its model."""

    hits: list[Hit]
    index: str
    model: str


# ---- the model of an index ---------------------------------------------------------------------------------------


def encoding_identity(index: VectorIndex) -> str:
    """Digest of an index's model, prefixes and lengths: indexes that share it share query vectors."""
    described = index.describe()
    return digest_json([described["model_digest"], described["contract"]])


def find_model(store: ArtifactStore, digest: str) -> Checkpoint:
    """The fine-tuned or base model with this digest.

    Raises:
        SearchError: it is no longer in the store.
    """
    for asset in CHECKPOINTS:
        if store.has(asset, digest):
            return store.get(Checkpoint, asset, digest)
    raise SearchError(
        f"the index was built by model {digest}, which is no longer in {store.location}: run `retune reindex`"
    )


def exported_encoder(store: ArtifactStore, digest: str, query_prefix: str) -> QueryEncoder | None:
    """The ONNX export of the model with this digest (which needs no torch), if it is the current export and has this
    prefix.

    Raises:
        SearchError, EncoderError: the export is damaged.
    """
    from assets_pkg.nim.manifest import FolderError, read_manifest
    from resources.encoders.onnx import OnnxEncoder

    exported = store.resolve(ONNX_LINK)
    if exported is None or not exported.exists():
        return None
    try:
        manifest = read_manifest(exported)
        matches = (manifest.model_digest, manifest.query_prefix) == (digest, query_prefix)
    except FolderError as error:
        raise SearchError(str(error)) from error
    if not matches:
        return None
    encoder = OnnxEncoder(exported, digest)
    encoder.open()
    return encoder


def checkpoint_encoder(
    store: ArtifactStore, model: ModelSettings, checkpoint: Checkpoint
) -> AbstractContextManager[Encoder]:
    """The encoder of a checkpoint on this machine, with the vectors that the store has cached."""
    recipe = EncoderRecipe(str(checkpoint.model.absolute()), checkpoint.version, model.encoder_config())
    return recipe.open_cached(store.root / EMBEDDING_CACHE)


def search_method_of(store: ArtifactStore, digest: str) -> SearchMethod:
    """The search method that was last chosen for the model with this digest; dense where none was."""
    chosen = store.resolve(f"{SEARCH_METHODS}/{digest}")
    if chosen is None:
        return DENSE
    return SearchMethod.parse(store.get(SearchChoice, "search_method", chosen.name).describe()["method"])


# ---- searching one version ---------------------------------------------------------------------------------------


class IndexReader:
    """An open index version and an encoder of the model that built it."""

    def __init__(self, index: VectorIndex, encoder: QueryEncoder, method: SearchMethod = DENSE):
        described = index.describe()
        self.version = index.version
        self.model: str = described["model_digest"]
        self.encoding = encoding_identity(index)
        self._dimensions: int = described["dimensions"]
        self._opened = open_index(index.path, described["place"])
        self._encoder = encoder
        self.method = DENSE
        self.use(method)

    def use(self, method: SearchMethod) -> None:
        """Answer with this method from now on, if the engine can."""
        self.method = method if self._opened.full_text else DENSE

    def search(
        self, text: str, k: int = 10, where: str | None = None, method: SearchMethod | None = None
    ) -> Answer:
        """The ``k`` best passages for ``text``, best first.

        Args:
            where: a condition over the index's columns in the engine's language (LanceDB: SQL).
            method: how they are ranked; by default as this reader was made.

        Raises:
            VectorStoreError: the condition is invalid, or the engine has no full-text search.
        """
        method = method or self.method
        depth = max(k, FUSION_DEPTH) if method.by_vectors and method.by_words else k
        dense: list[Hit] = []
        if method.by_vectors:
            vector = truncate(self._encoder.embed([text], "query"), self._dimensions)[0]
            dense = self._opened.search(vector, depth, where)
        words = self._opened.search_text(text, depth, where) if method.by_words else []
        return self._answer(method.rank(dense, words)[:k])

    def around(self, hit: Hit, count: int) -> tuple[list[Hit], list[Hit]]:
        """The ``count`` passages before and after a hit in its document, as far as there are any."""
        found = self._opened.passages_of(hit.doc_id, max(1, hit.chunk_id - count), hit.chunk_id + count)
        before = [each for each in found if each.chunk_id < hit.chunk_id]
        return before, [each for each in found if each.chunk_id > hit.chunk_id]

    def _answer(self, hits: list[Hit]) -> Answer:
        return Answer(hits, self.version, self.model)


# ---- following the current version -------------------------------------------------------------------------------


def open_searcher(
    store: ArtifactStore, model: ModelSettings, check_every_s: float = CHECK_EVERY_S
) -> AbstractContextManager[Searcher]:
    """A `Searcher` of the :func:`~assets_pkg.reindex.searched_index.searched_index`. Queries are
    embedded by the model that built the index: its ONNX export where there is one, else the checkpoint.

    Raises:
        SearchError: nothing is indexed yet, or the model is no longer in the store.
    """

    def open_encoder(index: VectorIndex) -> AbstractContextManager[QueryEncoder]:
        described = index.describe()
        # The prefixes and lengths that the passages were embedded with, whatever the profile has now.
        as_indexed = model.model_copy(update=described["contract"])
        exported = exported_encoder(store, described["model_digest"], as_indexed.query_prefix)
        if exported is not None:
            return nullcontext(exported)
        return checkpoint_encoder(store, as_indexed, find_model(store, described["model_digest"]))

    def find_method(index: VectorIndex) -> SearchMethod:
        return search_method_of(store, index.describe()["model_digest"])

    return Searcher(lambda: searched_index(store), open_encoder, check_every_s, find_method)


class Searcher:
    """Searches the index that ``find`` returns, and switches when that is another one. Thread-safe.

    A new version is opened and warmed up beside the old one, which answers meanwhile and is closed after its last
    search. If the files of a version are deleted during a search, the searcher switches at once and repeats the
    search.

    Args:
        find: the index to be searched now; called every ``check_every_s`` seconds, and when a search fails.
        open_encoder: opens an encoder of an index's model; it stays open for all versions with the same encoding.
        find_method: the search method for an index; asked as often.
    """

    def __init__(
        self,
        find: Callable[[], VectorIndex],
        open_encoder: Callable[[VectorIndex], AbstractContextManager[QueryEncoder]],
        check_every_s: float = CHECK_EVERY_S,
        find_method: Callable[[VectorIndex], SearchMethod] = lambda _: DENSE,
    ):
        self._find = find
        self._find_method = find_method
        self._open_encoder = open_encoder
        self._check_every_s = check_every_s
        self._pointer_lock = threading.Lock()
        self._refresh_lock = threading.Lock()
        self._current: _RefCounted[_OpenVersion] | None = None
        self._closed = threading.Event()
        self._follower = threading.Thread(target=self._follow, name="index-follower", daemon=True)

    def __enter__(self) -> Self:
        self.refresh()
        self._follower.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed.set()
        if self._follower.is_alive():
            self._follower.join()
        self._switch_to(None)

    def search(
        self, text: str, k: int = 10, where: str | None = None, method: SearchMethod | None = None
    ) -> Answer:
        """As `IndexReader.search`, by the current version."""
        while True:
            with self._acquired() as version:
                try:
                    return version.reader.search(text, k, where, method)
                except Exception:
                    # The version may have been deleted because another one has replaced it.
                    if not self.refresh() and version is self._peek():
                        raise

    def around(self, hit: Hit, count: int) -> tuple[list[Hit], list[Hit]]:
        """As `IndexReader.around`, by the current version."""
        with self._acquired() as version:
            return version.reader.around(hit, count)

    def refresh(self) -> bool:
        """Switch now if another version is to be searched; returns whether it did."""
        with self._refresh_lock:
            while True:
                wanted = self._find()
                current = self._peek()
                if current is not None and current.reader.version == wanted.version:
                    current.reader.use(self._find_method(wanted))
                    return False
                try:
                    self._switch_to(self._open(wanted, current))
                except Exception:
                    if self._find().version == wanted.version:
                        raise
                    continue  # deleted while it was opened, because another one has replaced it
                return True

    def _open(self, index: VectorIndex, current: _OpenVersion | None) -> _RefCounted[_OpenVersion]:
        with ExitStack() as opened:
            if current is not None and current.reader.encoding == encoding_identity(index):
                encoder = current.encoder.acquire()
            else:
                context = ExitStack()
                serialized = _SerializedEncoder(context.enter_context(self._open_encoder(index)))
                encoder = _RefCounted(serialized, context.close)
            opened.callback(encoder.release)
            reader = IndexReader(index, encoder.value, self._find_method(index))
            version = _OpenVersion(reader, encoder)
            if current is not None:
                version.reader.search(WARM_UP_QUERY, 1)  # loads the model while the old version answers
            opened.pop_all()
        return _RefCounted(version, encoder.release)

    def _switch_to(self, version: _RefCounted[_OpenVersion] | None) -> None:
        with self._pointer_lock:
            before, self._current = self._current, version
        if before is not None:
            before.release()

    def _peek(self) -> _OpenVersion | None:
        with self._pointer_lock:
            return None if self._current is None else self._current.value

    @contextmanager
    def _acquired(self) -> Iterator[_OpenVersion]:
        """The current version, kept open during the block."""
        with self._pointer_lock:
            if self._current is None:
                raise RuntimeError("a Searcher is used inside its `with` block")
            acquired = self._current.acquire()
        try:
            yield acquired.value
        finally:
            acquired.release()

    def _follow(self) -> None:
        reported = ""
        while not self._closed.wait(self._check_every_s):
            try:
                if self.refresh():
                    reported = ""
            except Exception as error:
                if str(error) != reported:
                    log.warning("search keeps the index that it has: %s", error, exc_info=True)
                reported = str(error)


class _SerializedEncoder:
    """An encoder with a lock: models are loaded at first use, and tokenizers are not thread-safe."""

    def __init__(self, encoder: QueryEncoder):
        self._encoder = encoder
        self._lock = threading.Lock()

    def embed(self, texts: Sequence[str], role: Role) -> NDArray[np.float32]:
        with self._lock:
            return self._encoder.embed(texts, role)


@dataclass(frozen=True)
class _OpenVersion:
    """An open index version and its encoder, which the next version may reuse."""

    reader: IndexReader
    encoder: _RefCounted[_SerializedEncoder]


class _RefCounted(Generic[T]):
    """A value with a reference count, which starts at 1; ``close`` is called when it drops to 0."""

    def __init__(self, value: T, close: Callable[[], None]):
        self.value = value
        self._close = close
        self._references = 1
        self._lock = threading.Lock()

    def acquire(self) -> Self:
        """Add a reference; the caller must know that another one exists."""
        with self._lock:
            self._references += 1
        return self

    def release(self) -> None:
        with self._lock:
            self._references -= 1
            last = self._references == 0
        if last:
            self._close()
