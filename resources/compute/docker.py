"""A job as a container of the Docker engine, on the same folders under the same paths."""

from __future__ import annotations

import os
from pathlib import Path

from resources.compute.errors import ComputeError
from resources.compute.host import ThisHost, secrets_of
from resources.compute.interrupts import started
from resources.compute.job import JobFolder, JobSpec, JobState, shell_script
from resources.compute.own_image import own_folders, own_image
from resources.compute.subprocess import ended
from resources.compute.targets import ComputeTarget
from resources.containers import ContainerEngine, ContainerError, ContainerSpec

PYTHON = "python3"
STOP_SECONDS = 20


class DockerExecutor:
    """Runs the job's script in ``container_image``, or with this machine's Retune in Python's own image. The handle is
    the container's id."""

    def __init__(self, target: ComputeTarget):
        self.target = target.model_copy(update={"python": target.python or PYTHON})

    def script(self, job: JobSpec) -> str:
        return f"# {self._spec(job).shell()}\n{shell_script(job, self.target)}"

    def check(self) -> None:
        secrets_of(self.target)
        self._image()
        try:
            self._engine().close()
        except ContainerError as error:
            raise ComputeError(str(error)) from error

    def submit(self, job: JobSpec) -> str:
        spec = self._spec(job)
        ThisHost().write(job.folder.script, shell_script(job, self.target))
        try:
            engine = self._engine()
            if not engine.has_image(spec.image):
                engine.pull(spec.image)
            earlier = engine.find(spec.name)
            if earlier is not None:
                engine.remove(earlier.id)
            return started(lambda: engine.run(spec).id, self.cancel)
        except ContainerError as error:
            raise ComputeError(str(error)) from error

    def state(self, handle: str, folder: JobFolder) -> JobState:
        try:
            engine = self._engine()
            status = engine.find(handle)
            if status is None:
                return ended(ThisHost().read(folder.exit_code), "its container was removed")
            if status.running:
                return JobState("running")
            ThisHost().write(folder.log, engine.logs(handle, lines=10_000))
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

    def _image(self) -> str:
        return self.target.container_image or own_image()

    def _spec(self, job: JobSpec) -> ContainerSpec:
        target = self.target
        folders = tuple(dict.fromkeys((job.cwd, *job.needs)))
        own = () if target.container_image else tuple(each for each in own_folders() if each not in folders)
        gpus = target.gpus_per_node
        return ContainerSpec(
            image=self._image(),
            name=f"retune-{job.name}",
            environment={"HOME": "/tmp", **_own_variables(target)},
            mounts={path: str(path) for path in own},
            labels={"retune": "job"},
            secrets=target.secrets,
            volumes=tuple(f"{path}:{path}" for path in folders if ":" not in str(path))
            + tuple(_absolute(mount) for mount in target.mounts),
            # Docker splits a volume at its colons.
            binds=tuple(path for path in folders if ":" in str(path)),
            command=("/bin/sh", str(job.folder.script)),
            user=f"{os.getuid()}:{os.getgid()}",
            working_dir=str(job.cwd),
            runtime=target.runtime,
            ipc_mode=target.ipc_mode,
            gpus=None if gpus is None else str(gpus),
            shm_size=target.shm_size,
        )


def _own_variables(target: ComputeTarget) -> dict[str, str]:
    """What an image of Retune would set: where its code is, and that NVIDIA's runtime hands out all GPUs."""
    if target.container_image:
        return {}
    variables = {"PYTHONPATH": os.pathsep.join(map(str, own_folders()))}
    if target.runtime == "nvidia" and target.gpus_per_node is None:
        # https://docs.nvidia.com/datacenter/cloud-native/container-toolkit/latest/docker-specialized.html
        variables |= {"NVIDIA_VISIBLE_DEVICES": "all", "NVIDIA_DRIVER_CAPABILITIES": "compute,utility"}
    return variables


def _absolute(mount: str) -> str:
    """A mount whose source may be relative to the project's folder, as the recipe writes it (``./data:/data``); the
    engine takes no relative folders."""
    source, colon, rest = mount.partition(":")
    return f"{Path(source).resolve()}{colon}{rest}" if source.startswith(".") else mount
