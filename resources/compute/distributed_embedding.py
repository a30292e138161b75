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
from resources.encoders.encoder_config import EncoderRecipe
from resources.encoders.shards import Shards
from storage.files import write_json
from storage.progress import Progress, no_progress

UNIT = "texts"
PATIENCE_SECONDS = 900.0
POLL_SECONDS = 1.0


MakeShards = Callable[[Shards, Progress], None]
"""Makes every shard that is missing, by all workers that there are."""


@dataclass(frozen=True)
class ArraySpread:
    """The first of ``tasks`` tasks of a job array: tells the others what to do, and does its part.

    Nobody is waited for and nobody's end is watched: who is through with its own shards goes on with those that others
    have not made yet.
    """

    share: Path
    tasks: int
    recipe: EncoderRecipe

    def __call__(self, shards: Shards, progress: Progress) -> None:
        told = {
            "source": str(shards.source.absolute()),
            "folder": str(shards.folder.absolute()),
            "role": shards.role,
            "block": shards.block,
            "recipe": self.recipe.dump(),
            "tasks": self.tasks,
        }
        write_json(self.share, told, indent=None, ensure_ascii=True)
        work_through(shards, self.recipe.open(), 0, self.tasks, progress)


def help_with(share: Path, task: int, over: Callable[[], bool]) -> None:
    """What the other tasks of the array do: wait to be told (until the job is ``over``), then do their part."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (share.exists() and share.stat().st_size):
        if over() or time.monotonic() > deadline:
            return
        time.sleep(POLL_SECONDS)
    told: dict[str, Any] = json.loads(share.read_text("utf-8"))
    shards = Shards(Path(told["source"]), Path(told["folder"]), told["role"], told["block"])
    try:
        work_through(shards, EncoderRecipe.load(told["recipe"]).open(), task, told["tasks"])
    except FileNotFoundError:
        if shards.folder.exists():  # else the vectors were put together meanwhile
            raise


def work_through(
    shards: Shards, encoder: Encoder, worker: int, of: int, progress: Progress = no_progress
) -> None:
    """Make every ``of``-th missing shard, and then whatever is still missing, until nothing is."""
    missing = shards.missing()
    own = [number for number in missing if number % of == worker]
    others = [number for number in missing if number % of != worker]
    random.Random(worker).shuffle(others)  # two that are through early seldom make the same one
    for number in (*own, *others):
        if not shards.has(number):
            shards.make(number, encoder)
        tell(shards, shards.missing(), progress)


def tell(shards: Shards, missing: Iterable[int], progress: Progress) -> None:
    """Progress in texts."""
    progress(shards.rows - sum(shards.size(number) for number in missing), shards.rows, UNIT)


NOT_INSTALLED = "Ray is not installed here: pip install 'retune[ray]'"
MOST_TASKS = 10_000
"""Ray's tasks, however many shards there are: several shards each, if need be."""

OBJECT_STORE_BYTES = 256 * 2**20
TELL_SECONDS = 1.0


@dataclass(frozen=True)
class RaySpread:
    """The workers of the place ``environment``: a Ray cluster's, or those of a Ray that is started for this."""

    environment: ComputeTarget
    recipe: EncoderRecipe

    def __call__(self, shards: Shards, progress: Progress) -> None:
        missing = shards.missing()
        if not missing:
            return
        with _connected(self.environment):
            self._embed(shards, missing, progress)

    def _embed(self, shards: Shards, missing: list[int], progress: Progress) -> None:
        ray = _ray()
        each = math.ceil(len(missing) / MOST_TASKS)
        tasks = [{"shards": missing[start : start + each]} for start in range(0, len(missing), each)]
        workers, gpus = self._workers()
        done = ray.data.from_items(tasks, override_num_blocks=len(tasks)).map_batches(
            ShardMaker,
            fn_constructor_args=(shards, self.recipe),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=min(workers, len(tasks))),
            num_cpus=self.environment.cpus_per_task or 1,
            num_gpus=gpus,
        )
        told = -math.inf
        for row in done.iter_rows():
            if row["failure"]:
                raise ComputeError(f"a worker failed: {row['failure']}")
            if time.monotonic() - told > TELL_SECONDS:
                told = time.monotonic()
                tell(shards, shards.missing(), progress)
        tell(shards, shards.missing(), progress)

    def _workers(self) -> tuple[int, float]:
        """How many, and what share of the GPUs each has; by default one a GPU, or one a CPU where there are none."""
        there: dict[str, float] = _ray().cluster_resources()
        gpus = self.environment.gpus_per_worker
        if gpus is None:
            gpus = 1.0 if there.get("GPU") else 0.0
        room = there.get("GPU", 0) // gpus if gpus else there["CPU"] // (self.environment.cpus_per_task or 1)
        workers = self.environment.num_workers or max(1, int(room))
        if workers > room:
            have = f"{there['CPU']:g} CPUs and {there.get('GPU', 0):g} GPUs"
            raise ComputeError(
                f"num_workers = {workers}, but this Ray has {have}: lower it, cpus_per_task or gpus_per_worker"
            )
        return workers, gpus


class ShardMaker:
    """An actor of the pool: makes shards with an encoder that is loaded once."""

    def __init__(self, shards: Shards, recipe: EncoderRecipe):
        self._shards = shards
        self._recipe = recipe
        self._encoder: Encoder | None = None

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        try:
            self._encoder = self._encoder or self._recipe.open()
            for number in (int(each) for numbers in batch["shards"] for each in numbers):
                if not self._shards.has(number):
                    self._shards.make(number, self._encoder)
        except Exception as error:  # noqa: BLE001 (Ray would hand on its own, without this one's message)
            return {"failure": [f"{type(error).__name__}: {error}"]}
        return {"failure": [""]}


@contextmanager
def _connected(environment: ComputeTarget) -> Generator[None]:
    """Ray, joined or started, and left at the end.

    Raises:
        ComputeError: it is not installed, or not reached.
    """
    local = environment.address == LOCAL
    if local:
        _prepare_local()
    ray = _ray()
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if local:
            cpus = max(os.cpu_count() or 1, (environment.num_workers or 1) * (environment.cpus_per_task or 1))
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
    """A Ray of our own tells nobody of its use, and takes no orders but from this process and its children."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if "RAY_AUTH_MODE" not in os.environ:
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
