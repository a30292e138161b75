"""Reads files in processes of their own, each within limits of time and memory."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Self

import orjson

from assets_pkg.corpus.readers.file_document import FileDocument, FileItem, ReadError, ReadOptions, UnreadPart

POLL_SECONDS = 0.05
"""Between two looks at the memory that a reader uses."""

KEPT_ENVIRONMENT = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "SYSTEMROOT")
"""A reader of strangers' files needs no credentials."""

WARM_UP_SECONDS = 60.0
"""For a process to start, on a busy machine."""


@dataclass(frozen=True)
class ReadLimits:
    """What reading one file may take."""

    seconds: float
    memory_mb: int

    @property
    def max_bytes(self) -> int:
        return self.memory_mb * 1_000_000


class ReaderPool:
    """So many reader processes, started when they are needed; a context manager that ends them.

    A reader that exceeds a limit, or dies, is replaced: the file is given up, and the next one is read.
    """

    def __init__(self, processes: int, limits: ReadLimits, options: ReadOptions) -> None:
        self.processes = processes
        self._limits, self._options = limits, options
        self._threads = ThreadPoolExecutor(processes, thread_name_prefix="reader")
        self._own = threading.local()
        self._readers: list[_ReaderProcess] = []
        self._folder = tempfile.TemporaryDirectory(prefix="retune-readers-")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._threads.shutdown(cancel_futures=True)
        for reader in self._readers:
            reader.stop()
        self._folder.cleanup()

    def submit(self, path: Path) -> Future[Path]:
        """Read a file; the result is the path of what it holds, for :func:`items_in`, or :class:`ReadError`."""
        return self._threads.submit(self._read, path)

    def _read(self, path: Path) -> Path:
        reader = self._reader()
        handle, out = tempfile.mkstemp(suffix=".jsonl", dir=self._folder.name)
        os.close(handle)
        try:
            reader.read(path, Path(out), self._limits, self._options)
        except BaseException:
            Path(out).unlink(missing_ok=True)
            raise
        return Path(out)

    def _reader(self) -> _ReaderProcess:
        if not hasattr(self._own, "reader"):
            self._own.reader = _ReaderProcess(Path(self._folder.name), self._limits.max_bytes)
            self._readers.append(self._own.reader)
        return self._own.reader


def items_in(path: Path, after_lines: int = 0) -> Iterator[FileItem]:
    """The documents that a reader wrote into ``path``, one in memory at a time."""
    with path.open("rb") as lines:
        yield from map(item_of, islice(lines, after_lines, None))


def item_of(line: bytes) -> FileItem:
    """The document that a line of such a file holds."""
    row: dict[str, Any] = orjson.loads(line)
    return UnreadPart(**row) if "kind" in row else FileDocument(**row)


class _ReaderProcess:
    """One process, used by one thread."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder, self._max_bytes = folder, max_bytes
        self._process: subprocess.Popen[bytes] | None = None

    def read(self, path: Path, out: Path, limits: ReadLimits, options: ReadOptions) -> None:
        """Read ``path`` into ``out``.

        Raises:
            ReadError: it cannot be read, or not within the limits.
        """
        process = self._started()
        request = {
            "path": os.fsdecode(os.fsencode(path.absolute())),
            "out": str(out),
            "seconds": limits.seconds,
            "options": asdict(options),
        }
        assert process.stdin is not None
        try:
            process.stdin.write(orjson.dumps(request) + b"\n")
            process.stdin.flush()
        except BrokenPipeError:
            raise self._died() from None
        answer = self._answer(process, limits)
        if answer:
            raise ReadError(answer["kind"], answer["detail"])

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for stream in (self._process.stdin, self._process.stdout):
                if stream is not None:
                    with suppress(BrokenPipeError):
                        stream.close()
            self._process = None

    def _answer(self, process: subprocess.Popen[bytes], limits: ReadLimits) -> dict[str, str]:
        import psutil

        assert process.stdout is not None
        deadline = time.monotonic() + limits.seconds
        measured = psutil.Process(process.pid)
        while not select.select([process.stdout], [], [], POLL_SECONDS)[0]:
            if time.monotonic() > deadline:
                self.stop()
                detail = f"not read within {limits.seconds:g} seconds (corpus.max_file_seconds)"
                raise ReadError("too slow", detail)
            with suppress(psutil.Error):
                if measured.memory_info().rss > limits.max_bytes:
                    self.stop()
                    detail = f"needs more than {limits.memory_mb:,} MB of memory (corpus.max_file_memory_mb)"
                    raise ReadError("too large", detail)
        line = process.stdout.readline()
        if not line.endswith(b"\n"):
            raise self._died()
        return orjson.loads(line)

    def _died(self) -> ReadError:
        assert self._process is not None
        code = self._process.wait()
        self.stop()
        how = f"signal {-code}" if code < 0 else f"exit status {code}"
        return ReadError(
            "reader died", f"the library that reads it ended its process ({how}): the file is damaged"
        )

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            environment = {name: os.environ[name] for name in KEPT_ENVIRONMENT if name in os.environ}
            environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
            environment["OMP_NUM_THREADS"] = "1"
            self._process = subprocess.Popen(
                [sys.executable, "-m", "assets_pkg.corpus.readers.worker", str(self._max_bytes)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environment,
                cwd=self._folder,
            )
            self._wait_until_ready(self._process)
        return self._process

    def _wait_until_ready(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        if select.select([process.stdout], [], [], WARM_UP_SECONDS)[0] and process.stdout.readline():
            return
        self.stop()
        raise ReadError("reader failed", f"its process did not start within {WARM_UP_SECONDS:g} seconds")
