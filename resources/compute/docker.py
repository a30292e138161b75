"""A job as a container of the Docker engine, on the same folders under the same paths."""

from __future__ import annotations

import os

from resources.compute.errors import ComputeError
from resources.compute.host import ThisHost, secrets_of
from resources.compute.interrupts import started
from resources.compute.job import JobSpec, State, shell_script
from resources.compute.subprocess import ended
from resources.compute.targets import ComputeTarget
from resources.containers import ContainerEngine, ContainerError, ContainerSpec

PYTHON = "python3"
STOP_SECONDS = 20


class DockerExecutor:
    """Runs the job's script in ``container_image``. The handle is the container's id."""

    def __init__(self, environment: ComputeTarget):
        self.environment = environment.model_copy(update={"python": environment.python or PYTHON})

    def script(self, job: JobSpec) -> str:
        return f"# {self._spec(job).shell()}\n{shell_script(job, self.environment)}"

    def check(self) -> None:
        secrets_of(self.environment)
        try:
            self._engine().close()
        except ContainerError as error:
            raise ComputeError(str(error)) from error

    def submit(self, job: JobSpec) -> str:
        spec = self._spec(job)
        ThisHost().write(job.script, shell_script(job, self.environment))
        try:
            engine = self._engine()
            if not engine.has_image(spec.image):
                engine.pull(spec.image)
            left_over = engine.find(spec.name)
            if left_over is not None:
                engine.remove(left_over.id)
            return started(lambda: engine.run(spec).id, self.cancel)
        except ContainerError as error:
            raise ComputeError(str(error)) from error

    def state(self, handle: str, job: JobSpec) -> State:
        try:
            engine = self._engine()
            status = engine.find(handle)
            if status is None:
                return ended(ThisHost().read(job.exit_code), "its container was removed")
            if status.running:
                return State("running")
            ThisHost().write(job.log, engine.logs(handle, lines=10_000))
            engine.remove(handle)
        except ContainerError as error:
            raise ComputeError(str(error)) from error
        return ended(str(status.exit_code).encode(), "")

    def cancel(self, handle: str) -> None:
        try:
            engine = self._engine()
            if engine.find(handle) is not None:
                engine.stop(handle, STOP_SECONDS)
                engine.remove(handle)
        except ContainerError as error:
            raise ComputeError(str(error)) from error

    def _engine(self) -> ContainerEngine:
        return ContainerEngine()

    def _spec(self, job: JobSpec) -> ContainerSpec:
        given = self.environment
        assert given.container_image is not None
        gpus = given.gpus_per_node
        return ContainerSpec(
            image=given.container_image,
            name=f"retune-{job.name}",
            environment={"HOME": "/tmp"},
            labels={"retune": "job"},
            secrets=given.secrets,
            volumes=tuple(f"{path}:{path}" for path in dict.fromkeys((job.cwd, *job.needs))) + given.mounts,
            command=("/bin/sh", str(job.script)),
            user=f"{os.getuid()}:{os.getgid()}",
            working_dir=str(job.cwd),
            runtime=given.runtime,
            ipc_mode=given.ipc_mode,
            gpus=None if gpus is None else str(gpus),
            shm_size=given.shm_size,
        )
