"""Which compute target each stage runs on, and what a process inside a job does differently."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from resources.compute.distributed_embedding import ArrayEmbedding, MakeShards, RayEmbedding
from resources.compute.executors import make_executor, runs_here
from resources.compute.targets import ComputeTarget, read_target
from resources.encoders.recipe import EncoderRecipe

INLINE = "inline"
"""The target that is this process."""


@dataclass(frozen=True)
class InsideJob:
    """This process is a job: it builds everything itself, and updates no pointers.

    Attributes:
        workers: the target whose workers embed corpora together with this process, if it has several.
        assignment: the file by which the tasks of a job array learn what to embed.
    """

    workers: ComputeTarget | None
    assignment: Path


@dataclass(frozen=True)
class StageTargets:
    """Where stages run, as the profile says.

    Attributes:
        env_file: the file that describes the targets.
        run_on: the target of every stage that ``stages`` does not name.
        stages: targets by stage.
        overrides: keys of the chosen targets to replace (``run.env.key=value``).
        profile: the settings that a job is given, as JSON.
        inside_job: set in a process that is a job itself.
    """

    env_file: str = "env.toml"
    run_on: str = INLINE
    stages: Mapping[str, str] = field(default_factory=dict[str, str])
    overrides: Mapping[str, str] = field(default_factory=dict[str, str])
    profile: str = "{}"
    inside_job: InsideJob | None = None

    def target_of(self, stage: str) -> tuple[str, ComputeTarget] | None:
        """Name and description of the target on which ``stage`` runs, or None for this process.

        Raises:
            ComputeError: there is no such target, or its description is wrong.
        """
        name = self.stages.get(stage, self.run_on)
        if self.inside_job is not None or name == INLINE:
            return None
        target = self.read(name)
        return None if target.executor == "inline" else (name, target)

    def read(self, name: str) -> ComputeTarget:
        """The target ``name`` of :attr:`env_file`.

        Raises:
            ComputeError: there is no such target, or its description is wrong.
        """
        return read_target(Path(self.env_file), name, self.overrides)

    def uses_this_machine(self, stage: str) -> bool:
        """Whether ``stage`` uses this machine's accelerator.

        Raises:
            ComputeError: as for :meth:`target_of`.
        """
        target = self.target_of(stage)
        return target is None or runs_here(target[1])

    def check(self) -> None:
        """Check every target that is named.

        Raises:
            ComputeError: one of them is described wrongly, or cannot take a job now.
        """
        for stage in ("", *self.stages):
            target = self.target_of(stage)
            if target is not None:
                make_executor(target[1]).check()

    def workers(self, recipe: EncoderRecipe) -> MakeShards | None:
        """The workers that embed a corpus together with this process, with encoders by ``recipe``; None if there are
        no others."""
        job = self.inside_job
        if job is None or job.workers is None:
            return None
        if job.workers.executor == "ray":
            return RayEmbedding(job.workers, recipe)
        assert job.workers.array is not None
        return ArrayEmbedding(job.assignment, job.workers.array, recipe)
