"""Exact search in several processes of this machine: each looks through a part of the passages, on a device of its
own, and the best of all parts are the best of all.

The result is that of one process to the last bit, since every score is made of its two vectors alone.
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

from assets_pkg.prep.errors import PrepError
from assets_pkg.retrieval.exact_search import PASSAGE_BLOCK, TopK, exact_search, merge
from storage.progress import Progress, no_progress

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Vectors = NDArray[np.float32]

STOP_SECONDS = 10


def search_devices(device: str, processes: int | None) -> list[str]:
    """The torch device of each process of a search, at most ``processes``; None: one on each GPU (``device``
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
    ``devices``; in this one, if it is one.

    Args:
        passages: unit vectors, a ``.npy`` file of float32 [m, d]; a copy of the queries lies beside it for as
            long as other processes search.

    Raises:
        PrepError: a process failed or was killed.
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
        jobs = [
            _SearchPart(
                shared, passages, part, k, device, _threads(devices), ceilings, _within(excluded, part)
            )
            for part, device in zip(parts, devices, strict=False)
        ]
        with _started(jobs) as workers:
            found = _gather(workers, len(queries), progress)
    finally:
        shared.unlink(missing_ok=True)
    return merge([(part.start, found[place]) for place, part in enumerate(parts)], k)


def _parts(count: int, processes: int) -> list[range]:
    """Passages of each process, in whole blocks; fewer parts where there are not enough blocks."""
    blocks = -(-count // PASSAGE_BLOCK)
    bounds = [PASSAGE_BLOCK * (blocks * number // processes) for number in range(processes)]
    ends = [*bounds[1:], count]
    return [range(start, stop) for start, stop in zip(bounds, ends, strict=True) if start < stop]


def _within(excluded: Sequence[Sequence[int]] | None, part: range) -> list[list[int]] | None:
    if excluded is None:
        return None
    return [[place - part.start for place in places if place in part] for places in excluded]


def _threads(devices: Sequence[str]) -> int:
    """Of each process, so that all together have as many as this one alone."""
    import torch

    return max(1, torch.get_num_threads() // len(devices))


# ---- the other processes -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _SearchPart:
    """The share of one process."""

    queries: Path
    passages: Path
    part: range
    k: int
    device: str
    threads: int
    ceilings: NDArray[np.float64] | None
    excluded: list[list[int]] | None


def _work(job: _SearchPart, pipe: Connection) -> None:
    """What a process does: sends how many queries it has done, and at last what it found or what went wrong."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that started it ends it
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        pipe.send(_search(job, pipe))
    except (RuntimeError, ValueError, OSError, MemoryError) as error:  # torch's are RuntimeErrors
        pipe.send(f"{type(error).__name__}: {error}")


def _search(job: _SearchPart, pipe: Connection) -> TopK:
    import torch

    torch.set_num_threads(job.threads)
    passages = np.load(job.passages, mmap_mode="r")[job.part.start : job.part.stop]

    def tell(done: int, total: int, unit: str, **figures: float) -> None:
        pipe.send(done)

    with threadpool_limits(job.threads):  # numpy's own
        return exact_search(
            np.load(job.queries, mmap_mode="r"),
            passages,
            job.k,
            ceilings=job.ceilings,
            excluded=job.excluded,
            device=job.device,
            progress=tell,
        )


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


# ---- and this one ------------------------------------------------------------------------------------------------


@contextmanager
def _started(jobs: Sequence[_SearchPart]) -> Generator[list[tuple[BaseProcess, Connection]]]:
    """A process for each job and the pipe it reports on; none is left at the end, whatever happens."""
    context = multiprocessing.get_context("spawn")  # a fork would take threads and CUDA along
    workers: list[tuple[BaseProcess, Connection]] = []
    try:
        for job in jobs:
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(target=_work, args=(job, theirs), daemon=True)
            process.start()
            theirs.close()
            workers.append((process, ours))
        yield workers
    finally:
        for process, pipe in workers:
            process.terminate()
            process.join(STOP_SECONDS)
            pipe.close()


def _gather(
    workers: Sequence[tuple[BaseProcess, Connection]], count: int, progress: Progress
) -> dict[int, TopK]:
    """What every process found, by place; ``count`` queries are told as done when all have done them."""
    place_of = {pipe: place for place, (_, pipe) in enumerate(workers)}
    done = dict.fromkeys(range(len(workers)), 0)
    found: dict[int, TopK] = {}
    while len(found) < len(workers):
        for pipe in wait([pipe for pipe, place in place_of.items() if place not in found]):
            assert isinstance(pipe, Connection)
            place = place_of[pipe]
            told = _receive(pipe, workers[place][0])
            if isinstance(told, TopK):
                found[place] = told
            else:
                done[place] = told
                progress(sum(done.values()) // len(workers), count, "queries")
    return found


def _receive(pipe: Connection, process: BaseProcess) -> TopK | int:
    try:
        told: TopK | int | str = pipe.recv()
    except EOFError as error:
        process.join(STOP_SECONDS)
        raise PrepError(
            f"a process of the search ended with code {process.exitcode}, perhaps for want of memory: set "
            "prep.mining_processes=1"
        ) from error
    if isinstance(told, str):
        raise PrepError(f"a process of the search failed: {told}")
    return told
