"""A job as a child process on this machine, in a process group of its own so that all of it can be ended."""

from __future__ import annotations

import os
import signal
import subprocess

import psutil

from resources.compute.host import ThisHost, secrets_of
from resources.compute.interrupts import started
from resources.compute.job import JobFolder, JobSpec, JobState, shell_script
from resources.compute.targets import ComputeTarget

STOP_SECONDS = 20


class SubprocessExecutor:
    """Runs the job's script in the background. The handle is ``pid:start time``."""

    def __init__(self, target: ComputeTarget):
        self.target = target

    def script(self, job: JobSpec) -> str:
        return shell_script(job, self.target)

    def check(self) -> None:
        secrets_of(self.target)

    def submit(self, job: JobSpec) -> str:
        ThisHost().write(job.folder.script, self.script(job))
        return started(lambda: self._start(job), self.cancel)

    def _start(self, job: JobSpec) -> str:
        job.folder.log.touch(mode=0o600)
        with job.folder.log.open("ab") as log:
            child = subprocess.Popen(
                ["/bin/bash", str(job.folder.script)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **secrets_of(self.target)},
                start_new_session=True,
            )
        return f"{child.pid}:{psutil.Process(child.pid).create_time():.0f}"

    def state(self, handle: str, folder: JobFolder) -> JobState:
        if _process(handle) is not None:
            return JobState("running")
        return ended(ThisHost().read(folder.exit_code), "its process was killed")

    def cancel(self, handle: str) -> None:
        process = _process(handle)
        if process is None:
            return
        os.killpg(process.pid, signal.SIGTERM)
        _, alive = psutil.wait_procs([process], timeout=STOP_SECONDS)
        if alive:
            os.killpg(process.pid, signal.SIGKILL)


def ended(exit_code: bytes, otherwise: str) -> JobState:
    """The state of a job that no longer runs: by the exit code that it left, or failed because ``otherwise``."""
    if not exit_code.strip():
        return JobState("failed", otherwise)
    code = int(exit_code)
    return JobState("done") if code == 0 else JobState("failed", f"exit code {code}")


def _process(handle: str) -> psutil.Process | None:
    pid, _, started = handle.partition(":")
    try:
        process = psutil.Process(int(pid))
        same = f"{process.create_time():.0f}" == started
        return process if same and process.status() != psutil.STATUS_ZOMBIE else None
    except psutil.NoSuchProcess:
        return None
