"""Search that goes on while the index is replaced: each answer by one version, index and model together."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from types import TracebackType
from typing import Generic, Self, TypeVar

from assets_pkg.reindex.reader import Answer, IndexReader, OneAtATime, QueryEncoder, encoded_by
from storage.artifacts import VectorIndex

CHECK_EVERY_S = 1.0
PROOF = "Is this index fit to be searched?"

T = TypeVar("T")
log = logging.getLogger(__name__)


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
