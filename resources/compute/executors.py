"""The executor that a compute target names."""

from __future__ import annotations

from resources.compute.docker import DockerExecutor
from resources.compute.job import Executor
from resources.compute.ray_jobs import LocalRayExecutor, RayExecutor
from resources.compute.slurm import SlurmExecutor
from resources.compute.subprocess import SubprocessExecutor
from resources.compute.targets import LOCAL, ComputeTarget
from resources.containers import engine_is_here


def make_executor(target: ComputeTarget) -> Executor:
    """The executor of ``target``; ``inline`` has none.

    Raises:
        ValueError: ``target`` is this process.
    """
    if target.executor == "slurm":
        return SlurmExecutor(target)
    if target.executor == "docker":
        return DockerExecutor(target)
    if target.executor == "ray":
        return LocalRayExecutor(target) if target.address == LOCAL else RayExecutor(target)
    if target.executor == "subprocess":
        return SubprocessExecutor(target)
    raise ValueError(f"executor {target.executor!r} runs in this process: it takes no jobs")


def runs_here(target: ComputeTarget) -> bool:
    """Whether its jobs use this machine's accelerator. A scheduler's jobs wait for theirs in its own queue."""
    if target.executor == "docker":
        return engine_is_here()
    local_ray = target.executor == "ray" and target.address == LOCAL
    return local_ray or target.executor in ("inline", "subprocess")
