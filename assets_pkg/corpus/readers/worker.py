"""A process that reads documents for another: ``python -m assets_pkg.corpus.readers.worker MAX_BYTES``.

Each line on standard input is a request ``{path, out, seconds, options}``: the documents of the file ``path`` are
written to the file ``out``, one JSON object a line (:class:`FileDocument`, or :class:`UnreadPart` with its ``kind``).
The answer is one JSON line: ``{}``, or ``{kind, detail}`` of why it cannot be read; before the first request an empty
line says that the process is ready. It ends with its input. It imports no model and no network client, and its own
limits end it even if the process that started it is gone.
"""

from __future__ import annotations

import errno
import os
import resource
import signal
import sys
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import orjson

from assets_pkg.corpus.readers.file_document import ReadError, ReadOptions
from assets_pkg.corpus.readers.registry import read

GRACE_SECONDS = 5
"""After its limit a file is given up by the process that asked; this long after, by this process itself."""

UNFORESEEN = "the library that reads it fails on it"
"""The reason of a file with which a reader's library does something that the reader does not expect."""

STACK_FRAMES = 3000
"""Of nested elements: beyond Python's own limit, well within the stack of a process."""


def main() -> None:
    max_bytes = int(sys.argv[1])
    _limit(max_bytes)
    sys.setrecursionlimit(STACK_FRAMES)
    # What libraries print must not be taken for an answer.
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    answers.write(b"\n")  # ready
    for line in sys.stdin.buffer:
        answers.write(orjson.dumps(_answer(orjson.loads(line))) + b"\n")


def _limit(max_bytes: int) -> None:
    """Bound what a file written here may hold, and, as a backstop of what is measured from outside, the memory."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_FSIZE, (max_bytes, max_bytes))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if sys.platform == "linux":
            most = 2 * max_bytes + (1 << 30)
            resource.setrlimit(resource.RLIMIT_DATA, (most, most))


def _answer(request: dict[str, Any]) -> dict[str, str]:
    signal.alarm(int(request["seconds"]) + GRACE_SECONDS)
    try:
        with Path(request["out"]).open("wb") as out:
            _write(Path(request["path"]), ReadOptions(**request["options"]), out)
    except ReadError as error:
        return {"kind": error.kind, "detail": error.detail}
    except MemoryError:
        return {"kind": "too large", "detail": "it needs more memory than corpus.max_file_memory_mb"}
    except RecursionError:
        return {"kind": "damaged", "detail": "its elements are nested too deep"}
    except OSError as error:
        if error.errno == errno.EFBIG:
            return {"kind": "too large", "detail": "its text has more than corpus.max_file_memory_mb"}
        return {"kind": "unreadable", "detail": error.strerror or str(error)}
    except Exception as error:  # noqa: BLE001 - a library's own error for a damaged file can be any
        detail = f"{UNFORESEEN} ({type(error).__name__}: {str(error)[:300]})"
        return {"kind": "damaged", "detail": _valid(detail)}
    finally:
        signal.alarm(0)
    return {}


def _write(path: Path, options: ReadOptions, out: IO[bytes]) -> None:
    for item in read(path, options):
        out.write(orjson.dumps(_storable(asdict(item)), default=str) + b"\n")


def _storable(value: Any) -> Any:
    """A value of a document without what JSON in UTF-8 cannot hold; larger numbers than 64 bits become text."""
    if isinstance(value, str):
        return _valid(value)
    if isinstance(value, int):
        return value if -(2**63) <= value < 2**63 else str(value)
    if isinstance(value, dict):
        return {_valid(str(key)): _storable(each) for key, each in value.items()}
    return [_storable(each) for each in value] if isinstance(value, list) else value


def _valid(text: str) -> str:
    """The text without zero characters and halves of surrogate pairs, which no UTF-8 file can hold."""
    return text.replace("\0", "").encode("utf-8", "replace").decode("utf-8")


if __name__ == "__main__":
    main()
