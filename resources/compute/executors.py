"""The executor that a place of ``env.toml`` names."""

from __future__ import annotations

from resources.compute.docker import DockerExecutor
from resources.compute.job import Executor
from resources.compute.ray_jobs import LocalRayExecutor, RayExecutor
from resources.compute.slurm import SlurmExecutor
from resources.compute.subprocess import SubprocessExecutor
from resources.compute.targets import LOCAL, ComputeTarget
from resources.containers import engine_is_here


def make_executor(environment: ComputeTarget) -> Executor:
    """Whatever runs jobs as ``environment`` says; ``inline`` runs none."""
    if environment.executor == "slurm":
        return SlurmExecutor(environment)
    if environment.executor == "docker":
        return DockerExecutor(environment)
    if environment.executor == "ray":
        return LocalRayExecutor(environment) if environment.address == LOCAL else RayExecutor(environment)
    if environment.executor == "subprocess":
        return SubprocessExecutor(environment)
    raise ValueError(f"executor {environment.executor!r} runs in this process: it takes no jobs")


def runs_here(environment: ComputeTarget) -> bool:
    """Whether its jobs take this machine's own accelerator. A scheduler's jobs wait for theirs in its own queue."""
    if environment.executor == "docker":
        return engine_is_here()
    local_ray = environment.executor == "ray" and environment.address == LOCAL
    return local_ray or environment.executor in ("inline", "subprocess")
