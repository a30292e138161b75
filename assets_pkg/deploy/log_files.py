"""The log file of a server process, which several starts append to and the server rotates."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from io import BufferedReader
from pathlib import Path

POLL_SECONDS = 0.2


STARTED = "---- started "


def begin(log: Path) -> None:
    """Begin the part of one start. A file that is full is set aside; a server of Retune does that by itself, too."""
    from assets_pkg.nim.observability import LOG_FILE_BYTES

    if log.exists() and log.stat().st_size > LOG_FILE_BYTES:
        log.replace(log.with_name(f"{log.name}.1"))
    with log.open("a", encoding="utf-8") as stream:
        stream.write(f"{STARTED}{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC\n")


def last_lines(log: Path, count: int) -> list[str]:
    """The last lines of the file since the last start; none where there is no file."""
    lines: deque[str] = deque(maxlen=count)
    try:
        with log.open(encoding="utf-8", errors="replace") as stream:
            for line in stream:
                if line.startswith(STARTED):
                    lines.clear()
                else:
                    lines.append(line.rstrip("\n"))
    except FileNotFoundError:
        return []
    return list(lines)


def follow(log: Path, count: int, alive: Callable[[], bool]) -> Iterator[str]:
    """The last lines of the file, and those that are written until ``alive`` is false; over rotations."""
    yield from last_lines(log, count)
    stream = log.open("rb")
    stream.seek(0, os.SEEK_END)
    ended = False
    while True:
        yield from _written(stream)
        if not _is_at(stream, log):  # rotated: what was written before that has just been read
            yield from _written(stream)
            stream.close()
            stream = log.open("rb")
        elif ended:
            stream.close()
            return
        elif alive():
            time.sleep(POLL_SECONDS)
        else:
            ended = True


def _written(stream: BufferedReader) -> Iterator[str]:
    while line := stream.readline():
        if not line.endswith(b"\n"):
            stream.seek(-len(line), os.SEEK_CUR)  # it is still being written
            return
        yield line.decode("utf-8", "replace").rstrip("\n")


def _is_at(stream: BufferedReader, log: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(stream.fileno()), log.stat())
    except FileNotFoundError:
        return True  # in the middle of a rotation
