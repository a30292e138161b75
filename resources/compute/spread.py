"""Embedding by all workers of a job's place together."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resources.encoders.base import Encoder
from resources.encoders.recipe import EncoderRecipe
from resources.encoders.shards import Shards
from storage.artifact_store import write_atomic
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
        write_atomic(self.share, json.dumps(told))
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
