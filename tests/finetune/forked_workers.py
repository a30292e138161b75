"""Training processes that are forked from one which has imported torch, in place of those that torchrun starts.

Importing takes most of the processor time of a short training.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from assets_pkg.finetune.launch import _forward, run_worker, threads_each
from resources.machine.imports import spare_imports
from storage.progress import Note, Progress
from tests.loopback import free_port

HEAVY = [__name__, "assets_pkg.finetune.train"]
SECONDS = 120

spare_imports()  # in the process that the others are forked from


def launch_forked(
    files: Any, count: int, progress: Progress, note: Note, work: Callable[[Path], None] = run_worker
) -> None:
    """What ``assets_pkg.finetune.launch._launch`` does, with ``work`` in each process."""
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(HEAVY)
    group = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    printed = files.folder / "printed.txt"
    workers = []
    for rank in range(count):
        place = {**group, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        arguments = (work, files.folder, printed, place, threads_each(count))
        workers.append(processes.Process(target=_run, args=arguments))
    with pytest.MonkeyPatch.context() as patch:
        # Sums depend on the number of threads with which torch was imported.
        patch.setenv("OMP_NUM_THREADS", os.environ.get("OMP_NUM_THREADS", str(threads_each(count))))
        for each in workers:
            each.start()
    try:
        for each in workers:
            each.join(SECONDS)
        assert [each.exitcode for each in workers] == [0] * count
    finally:
        for each in workers:
            each.kill()
    _forward(printed.read_text("utf-8").splitlines(), progress, note)


def _run(
    work: Callable[[Path], None], folder: Path, printed: Path, place: Mapping[str, str], threads: int
) -> None:
    import torch

    os.environ.update(place)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", threads)))
    os.dup2(os.open(printed, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 1)
    work(folder)
