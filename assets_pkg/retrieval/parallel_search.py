"""Exact search in several processes of this machine: each searches a part of the passages on its own device, and the
results are merged.

The result is bit-identical to that of one process, since every score depends on its two vectors alone.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from threadpoolctl import threadpool_limits

from assets_pkg.retrieval.errors import RetrievalError
from assets_pkg.retrieval.exact_search import PASSAGE_BLOCK, TopK, exact_search, merge
from resources.machine.imports import spare_imports
from storage.progress import Progress, no_progress

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Vectors = NDArray[np.float32]

STOP_SECONDS = 10


def search_devices(device: str, processes: int | None) -> list[str]:
    """The torch device of each process of a search, at most ``processes``. None: one process for each GPU (``device``
    ``cuda`` means all of them, ``cuda:N`` that one), and one on a CPU, since it uses all cores already."""
    import torch

    if device == "cpu":
        return ["cpu"] * (processes or 1)
    if device == "cuda":
        return [f"cuda:{number}" for number in range(torch.cuda.device_count())][:processes]
    return [device]


def search_file(
    queries: Vectors,
    passages: Path,
    k: int,
    *,
    devices: Sequence[str] = ("cpu",),
    ceilings: NDArray[np.float64] | None = None,
    excluded: Sequence[Sequence[int]] | None = None,
    progress: Progress = no_progress,
) -> TopK:
    """:func:`~assets_pkg.retrieval.exact_search.exact_search` with the passages in a file, in one process for each of
    ``devices``; in this process if there is only one.

    Args:
        passages: unit vectors, a ``.npy`` file of float32 [m, d]; a copy of the queries is kept beside it while
            other processes search.

    Raises:
        RetrievalError: a process failed or was killed.
    """
    stored = np.load(passages, mmap_mode="r")
    parts = _parts(len(stored), len(devices))
    if len(parts) < 2:
        return exact_search(
            queries, stored, k, ceilings=ceilings, excluded=excluded, device=devices[0], progress=progress
        )
    shared = passages.with_name(".shared_queries.npy")
    try:
        np.save(shared, queries)
        searches = [
            _SearchPart(
                shared, passages, part, k, device, _threads(devices), ceilings, _within(excluded, part)
            )
            for part, device in zip(parts, devices, strict=False)
        ]
        with _started(searches) as workers:
            found = _gather(workers, len(queries), progress)
    finally:
        shared.unlink(missing_ok=True)
    return merge([(part.start, found[number]) for number, part in enumerate(parts)], k)


def _parts(count: int, processes: int) -> list[range]:
    """The passages of each process, in whole blocks; fewer parts where there are fewer blocks."""
    blocks = -(-count // PASSAGE_BLOCK)
    bounds = [PASSAGE_BLOCK * (blocks * number // processes) for number in range(processes)]
    ends = [*bounds[1:], count]
    return [range(start, stop) for start, stop in zip(bounds, ends, strict=True) if start < stop]


def _within(excluded: Sequence[Sequence[int]] | None, part: range) -> list[list[int]] | None:
    if excluded is None:
        return None
    return [[index - part.start for index in indices if index in part] for indices in excluded]


def _threads(devices: Sequence[str]) -> int:
    """Threads of each process: together as many as this process has."""
    import torch

    return max(1, torch.get_num_threads() // len(devices))


# ---- in a worker process -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _SearchPart:
    """What one process searches."""

    queries: Path
    passages: Path
    part: range
    k: int
    device: str
    threads: int
    ceilings: NDArray[np.float64] | None
    excluded: list[list[int]] | None


def _work(search: _SearchPart, pipe: Connection) -> None:
    """Run one search; send the number of queries done, and finally the result or an error message."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent process terminates it
    spare_imports()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        pipe.send(_search(search, pipe))
    except (RuntimeError, ValueError, OSError, MemoryError) as error:  # torch's are RuntimeErrors
        pipe.send(f"{type(error).__name__}: {error}")


def _search(search: _SearchPart, pipe: Connection) -> TopK:
    import torch

    torch.set_num_threads(search.threads)
    passages = np.load(search.passages, mmap_mode="r")[search.part.start : search.part.stop]

    def report(done: int, total: int, unit: str, **figures: float) -> None:
        pipe.send(done)

    with threadpool_limits(search.threads):  # numpy's own
        return exact_search(
            np.load(search.queries, mmap_mode="r"),
            passages,
            search.k,
            ceilings=search.ceilings,
            excluded=search.excluded,
            device=search.device,
            progress=report,
        )


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


# ---- in the parent process ---------------------------------------------------------------------------------------


@contextmanager
def _started(searches: Sequence[_SearchPart]) -> Generator[list[tuple[BaseProcess, Connection]]]:
    """A process for each search, and the pipe it reports on; all are terminated when the block is left."""
    context = multiprocessing.get_context("spawn")  # a fork would inherit threads and the CUDA context
    workers: list[tuple[BaseProcess, Connection]] = []
    try:
        for search in searches:
            receiving, sending = context.Pipe(duplex=False)
            process = context.Process(target=_work, args=(search, sending), daemon=True)
            process.start()
            sending.close()
            workers.append((process, receiving))
        yield workers
    finally:
        for process, pipe in workers:
            process.terminate()
            process.join(STOP_SECONDS)
            pipe.close()


def _gather(
    workers: Sequence[tuple[BaseProcess, Connection]], count: int, progress: Progress
) -> dict[int, TopK]:
    """The result of every process, by its number; ``count`` queries are done when all processes have done them."""
    number_of = {pipe: number for number, (_, pipe) in enumerate(workers)}
    done = dict.fromkeys(range(len(workers)), 0)
    found: dict[int, TopK] = {}
    while len(found) < len(workers):
        for pipe in wait([pipe for pipe, number in number_of.items() if number not in found]):
            assert isinstance(pipe, Connection)
            number = number_of[pipe]
            message = _receive(pipe, workers[number][0])
            if isinstance(message, TopK):
                found[number] = message
            else:
                done[number] = message
                progress(sum(done.values()) // len(workers), count, "queries")
    return found


def _receive(pipe: Connection, process: BaseProcess) -> TopK | int:
    try:
        message: TopK | int | str = pipe.recv()
    except EOFError as error:
        process.join(STOP_SECONDS)
        raise RetrievalError(
            f"a process of the search ended with code {process.exitcode}, perhaps out of memory: set "
            "prep.mining_processes=1"
        ) from error
    if isinstance(message, str):
        raise RetrievalError(f"a process of the search failed: {message}")
    return message
