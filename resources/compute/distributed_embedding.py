"""Embedding a corpus by all workers of a job's compute target: the tasks of a Slurm array, or Ray Data's actors."""

from __future__ import annotations

import json
import logging
import math
import os
import random
import secrets
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from resources.compute.errors import ComputeError
from resources.compute.targets import LOCAL, ComputeTarget
from resources.encoders.base import Encoder
from resources.encoders.recipe import EncoderRecipe
from resources.encoders.shards import Shards
from resources.machine.cpus import usable_cpus
from resources.machine.imports import spare_imports
from storage.files import write_json
from storage.progress import Progress, no_progress

UNIT = "texts"
NOT_INSTALLED = "Ray is not installed here: pip install 'retune-embed[ray]'"
ASSIGNMENT_TIMEOUT_S = 900.0
POLL_SECONDS = 1.0
REPORT_SECONDS = 1.0
MAX_RAY_TASKS = 10_000
"""More shards than that share tasks: Ray slows down with very many of them."""

OBJECT_STORE_BYTES = 256 * 2**20

MakeShards = Callable[[Shards, Progress], None]
"""Makes every missing shard, by all workers of the compute target."""


@dataclass(frozen=True)
class ArrayEmbedding:
    """The first of the ``tasks`` tasks of a job array: writes the assignment for the others, and embeds its own part.

    The tasks do not wait for one another. A task that has finished its own shards makes those of others that are still
    missing, so a task that is killed or never starts costs time only.
    """

    assignment: Path
    tasks: int
    recipe: EncoderRecipe

    def __call__(self, shards: Shards, progress: Progress) -> None:
        assigned = {
            "source": str(shards.source.absolute()),
            "folder": str(shards.folder.absolute()),
            "role": shards.role,
            "block": shards.block,
            "recipe": self.recipe.dump(),
            "tasks": self.tasks,
        }
        write_json(self.assignment, assigned, indent=None, ensure_ascii=True)
        make_shards(shards, self.recipe.open(), 0, self.tasks, progress)


def embed_as_array_task(assignment: Path, task: int, over: Callable[[], bool]) -> None:
    """What the tasks of an array after the first do: wait for the ``assignment`` and embed their part of it. Without
    one they end when the job is ``over``, or after :data:`ASSIGNMENT_TIMEOUT_S`."""
    deadline = time.monotonic() + ASSIGNMENT_TIMEOUT_S
    while not (assignment.exists() and assignment.stat().st_size):
        if over() or time.monotonic() > deadline:
            return
        time.sleep(POLL_SECONDS)
    assigned: dict[str, Any] = json.loads(assignment.read_text("utf-8"))
    shards = Shards(Path(assigned["source"]), Path(assigned["folder"]), assigned["role"], assigned["block"])
    try:
        make_shards(shards, EncoderRecipe.load(assigned["recipe"]).open(), task, assigned["tasks"])
    except FileNotFoundError:
        if shards.folder.exists():  # else the first task has put the vectors together meanwhile
            raise


def make_shards(
    shards: Shards, encoder: Encoder, worker: int, of: int, progress: Progress = no_progress
) -> None:
    """Make every ``of``-th missing shard, and then those of other workers that are still missing."""
    missing = shards.missing()
    own = [number for number in missing if number % of == worker]
    others = [number for number in missing if number % of != worker]
    random.Random(worker).shuffle(others)  # so that two workers seldom make the same shard
    for number in (*own, *others):
        if not shards.has(number):
            shards.make(number, encoder)
        report(shards, shards.missing(), progress)


def report(shards: Shards, missing: Iterable[int], progress: Progress) -> None:
    """Progress in texts."""
    progress(shards.rows - sum(shards.size(number) for number in missing), shards.rows, UNIT)


@dataclass(frozen=True)
class RayEmbedding:
    """Ray Data's actors on ``target``: a Ray cluster, or a Ray that is started for this."""

    target: ComputeTarget
    recipe: EncoderRecipe

    def __call__(self, shards: Shards, progress: Progress) -> None:
        missing = shards.missing()
        if not missing:
            return
        with _connected(self.target):
            self._embed(shards, missing, progress)

    def _embed(self, shards: Shards, missing: list[int], progress: Progress) -> None:
        ray = _ray()
        each = math.ceil(len(missing) / MAX_RAY_TASKS)
        tasks = [{"shards": missing[start : start + each]} for start in range(0, len(missing), each)]
        workers, gpus = self._workers()
        done = ray.data.from_items(tasks, override_num_blocks=len(tasks)).map_batches(
            ShardMaker,
            fn_constructor_args=(shards, self.recipe),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=min(workers, len(tasks))),
            num_cpus=self.target.cpus_per_task or 1,
            num_gpus=gpus,
        )
        reported = -math.inf
        for row in done.iter_rows():
            if row["failure"]:
                raise ComputeError(f"a worker failed: {row['failure']}")
            if time.monotonic() - reported > REPORT_SECONDS:
                reported = time.monotonic()
                report(shards, shards.missing(), progress)
        report(shards, shards.missing(), progress)

    def _workers(self) -> tuple[int, float]:
        """How many workers, and the GPUs of each; by default one a GPU, or one a CPU where there are none."""
        cluster: dict[str, float] = _ray().cluster_resources()
        gpus = self.target.gpus_per_worker
        if gpus is None:
            gpus = 1.0 if cluster.get("GPU") else 0.0
        capacity = (
            cluster.get("GPU", 0) // gpus if gpus else cluster["CPU"] // (self.target.cpus_per_task or 1)
        )
        workers = self.target.num_workers or max(1, int(capacity))
        if workers > capacity:
            have = f"{cluster['CPU']:g} CPUs and {cluster.get('GPU', 0):g} GPUs"
            raise ComputeError(
                f"num_workers = {workers}, but this Ray has {have}: lower it, cpus_per_task or gpus_per_worker"
            )
        return workers, gpus


class ShardMaker:
    """An actor of the pool: makes shards with an encoder that is loaded once."""

    def __init__(self, shards: Shards, recipe: EncoderRecipe):
        spare_imports()
        self._shards = shards
        self._recipe = recipe
        self._encoder: Encoder | None = None

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        try:
            self._encoder = self._encoder or self._recipe.open()
            for number in (int(each) for numbers in batch["shards"] for each in numbers):
                if not self._shards.has(number):
                    self._shards.make(number, self._encoder)
        except Exception as error:  # noqa: BLE001 (Ray's own error would lack this message)
            return {"failure": [f"{type(error).__name__}: {error}"]}
        return {"failure": [""]}


@contextmanager
def _connected(target: ComputeTarget) -> Generator[None]:
    """Connect to the cluster, or start a Ray on this machine; disconnect or stop it at the end.

    Raises:
        ComputeError: Ray is not installed, or does not answer.
    """
    local = target.address == LOCAL
    if local:
        _prepare_local()
    ray = _ray()
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if local:
            cpus = max(usable_cpus(), (target.num_workers or 1) * (target.cpus_per_task or 1))
            ray.init(
                "local",
                num_cpus=cpus,
                include_dashboard=False,
                object_store_memory=OBJECT_STORE_BYTES,
                **quiet,
            )
        else:
            ray.init("auto", **quiet)
    except (ConnectionError, RuntimeError, OSError) as error:
        raise ComputeError(f"Ray cannot be {'started' if local else 'reached'}: {error}") from error
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    try:
        yield
    finally:
        ray.shutdown()


def _ray() -> Any:
    """Ray with Ray Data, untyped: its own types are incomplete.

    Raises:
        ComputeError: it is not installed.
    """
    try:
        import_module("ray.data")
        return import_module("ray")
    except ImportError as error:
        raise ComputeError(NOT_INSTALLED) from error


def _prepare_local() -> None:
    """The local Ray sends no usage statistics, and accepts only this process and its children."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if "RAY_AUTH_MODE" not in os.environ:
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
