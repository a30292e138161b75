"""Search by the current index and the model that built it, which goes on while the index is replaced."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from types import TracebackType
from typing import TYPE_CHECKING, Generic, Protocol, Self, TypeVar

from assets_pkg.config.base import ModelSettings
from assets_pkg.deploy.deploy import read_state
from assets_pkg.reindex.index import open_index
from resources.encoders.base import Encoder, Role
from resources.encoders.encoder_config import EncoderRecipe
from resources.vector_store.base import Hit
from storage.artifact_store import ArtifactError, ArtifactStore
from storage.artifacts import Checkpoint, VectorIndex
from storage.digests import digest_json
from storage.errors import RetuneError
from storage.paths import EMBEDDING_CACHE, INDEX_LINK, ONNX_LINK, STATE_FOLDER
from storage.vectors import truncate

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

CHECK_EVERY_S = 1.0
PROOF = "Is this index fit to be searched?"
T = TypeVar("T")
log = logging.getLogger(__name__)

FUSION_CONSTANT = 60
FUSION_DEPTH = 100


class QueryEncoder(Protocol):
    """The part of an encoder that search needs."""

    def embed(self, texts: Sequence[str], role: Role) -> NDArray[np.float32]: ...


@dataclass(frozen=True)
class Answer:
    """What was found, best first, and by what: the version of the index and the digest of its model."""

    hits: list[Hit]
    index: str
    model: str


class OneAtATime:
    """An encoder that threads may share: models are loaded at first use, and tokenizers are made for one thread."""

    def __init__(self, encoder: QueryEncoder):
        self._encoder = encoder
        self._lock = threading.Lock()

    def embed(self, texts: Sequence[str], role: Role) -> NDArray[np.float32]:
        with self._lock:
            return self._encoder.embed(texts, role)


class IndexReader:
    """An open index version and an encoder of the very model that it names."""

    def __init__(self, index: VectorIndex, encoder: QueryEncoder):
        described = index.describe()
        self.version = index.version
        self.model: str = described["model_digest"]
        self.encoded_by = encoded_by(index)
        self._dimensions: int = described["dimensions"]
        self._opened = open_index(index.path, described["place"])
        self._encoder = encoder

    def search(self, text: str, k: int = 10, where: str | None = None, *, hybrid: bool = False) -> Answer:
        """The ``k`` passages nearest to ``text``, best first.

        ``where`` is a condition over the index's columns in the engine's language (LanceDB: SQL). ``hybrid``
        fuses vector and full-text search by reciprocal rank (Cormack et al. 2009, constant 60).

        Raises:
            VectorStoreError: the condition makes no sense, or the engine has no full-text search.
        """
        vector = truncate(self._encoder.embed([text], "query"), self._dimensions)[0]
        if not hybrid:
            return self._answer(self._opened.search(vector, k, where))
        deep = max(k, FUSION_DEPTH)
        rankings = [self._opened.search(vector, deep, where), self._opened.search_text(text, deep, where)]
        return self._answer(fuse(rankings)[:k])

    def _answer(self, hits: list[Hit]) -> Answer:
        return Answer(hits, self.version, self.model)


def encoded_by(index: VectorIndex) -> str:
    """Names the model of an index with its prefixes and lengths: indexes that share it share query vectors."""
    described = index.describe()
    return digest_json([described["model_digest"], described["contract"]])


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


class SearchError(RetuneError):
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
                f"nothing is indexed yet under {store.location}: run `retune run --to reindex` first"
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
        if store.has(asset, digest):
            return store.get(Checkpoint, asset, digest)
    raise SearchError(
        f"the index was built by model {digest}, which is no longer in {store.location}: run `retune reindex`"
    )


def checkpoint_encoder(
    store: ArtifactStore, model: ModelSettings, checkpoint: Checkpoint
) -> AbstractContextManager[Encoder]:
    """The encoder of a checkpoint on this machine, with cached vectors."""
    recipe = EncoderRecipe(str(checkpoint.model.absolute()), checkpoint.version, model.encoder_config())
    return recipe.open_cached(store.root / EMBEDDING_CACHE)


class Searcher:
    """Searches the index that ``find`` names, and changes over when that is another one. Threads may share it.

    A new version is opened and proven beside the old one, which answers meanwhile and is let go after its last
    search. A version whose files are deleted under a search is replaced at once, and the search asked again.

    Args:
        find: the index to be searched now; asked every ``check_every_s`` seconds, and when a search fails.
        open_encoder: an encoder of an index's model; kept as long as the index is made with the same.
    """

    def __init__(
        self,
        find: Callable[[], VectorIndex],
        open_encoder: Callable[[VectorIndex], AbstractContextManager[QueryEncoder]],
        check_every_s: float = CHECK_EVERY_S,
    ):
        self._find = find
        self._open_encoder = open_encoder
        self._check_every_s = check_every_s
        self._pointing = threading.Lock()
        self._changing = threading.Lock()
        self._current: _Shared[_Version] | None = None
        self._ended = threading.Event()
        self._watch = threading.Thread(target=self._follow, name="index-watch", daemon=True)

    def __enter__(self) -> Self:
        self.refresh()
        self._watch.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        if self._watch.is_alive():
            self._watch.join()
        self._point_at(None)

    def search(self, text: str, k: int = 10, where: str | None = None, *, hybrid: bool = False) -> Answer:
        """As `IndexReader.search`, by the version that is current."""
        while True:
            with self._version() as version:
                try:
                    return version.reader.search(text, k, where, hybrid=hybrid)
                except Exception:
                    # Perhaps this version was deleted because another one has taken over.
                    if not self.refresh() and version is self._peek():
                        raise

    def refresh(self) -> bool:
        """Change over now if another version is to be searched; whether one was."""
        with self._changing:
            while True:
                wanted = self._find()
                current = self._peek()
                if current is not None and current.reader.version == wanted.version:
                    return False
                try:
                    self._point_at(self._open(wanted, current))
                except Exception:
                    if self._find().version == wanted.version:
                        raise
                    continue  # deleted while it was opened: another one has taken over
                return True

    def _open(self, index: VectorIndex, current: _Version | None) -> _Shared[_Version]:
        with ExitStack() as opened:
            if current is not None and current.reader.encoded_by == encoded_by(index):
                encoder = current.encoder.take()
            else:
                context = ExitStack()
                opened_encoder = OneAtATime(context.enter_context(self._open_encoder(index)))
                encoder = _Shared(opened_encoder, context.close)
            opened.callback(encoder.release)
            version = _Version(IndexReader(index, encoder.value), encoder)
            if current is not None:
                version.reader.search(PROOF, 1)  # loads the model before anyone waits for it
            opened.pop_all()
        return _Shared(version, encoder.release)

    def _point_at(self, version: _Shared[_Version] | None) -> None:
        with self._pointing:
            before, self._current = self._current, version
        if before is not None:
            before.release()

    def _peek(self) -> _Version | None:
        with self._pointing:
            return None if self._current is None else self._current.value

    @contextmanager
    def _version(self) -> Iterator[_Version]:
        """The current version, held open."""
        with self._pointing:
            if self._current is None:
                raise RuntimeError("a Searcher is used inside its `with` block")
            held = self._current.take()
        try:
            yield held.value
        finally:
            held.release()

    def _follow(self) -> None:
        told = ""
        while not self._ended.wait(self._check_every_s):
            try:
                if self.refresh():
                    told = ""
            except Exception as error:
                if str(error) != told:
                    log.warning("search stays with the index that it has: %s", error, exc_info=True)
                told = str(error)


class _Version:
    """An index version, and its model, which the next version may go on using."""

    def __init__(self, reader: IndexReader, encoder: _Shared[OneAtATime]):
        self.reader = reader
        self.encoder = encoder


class _Shared(Generic[T]):
    """A thing with several users, closed when the last of them lets go. Whoever makes it is its first user."""

    def __init__(self, value: T, close: Callable[[], None]):
        self.value = value
        self._close = close
        self._users = 1
        self._lock = threading.Lock()

    def take(self) -> Self:
        """One more user; the caller must know that there is another one still."""
        with self._lock:
            self._users += 1
        return self

    def release(self) -> None:
        with self._lock:
            self._users -= 1
            last = self._users == 0
        if last:
            self._close()
