"""A job as a child of this machine: in a process group of its own, so that it can be ended whole."""

from __future__ import annotations

import os
import signal
import subprocess

import psutil

from resources.compute.host import ThisHost, secrets_of
from resources.compute.interrupts import started
from resources.compute.job import JobSpec, State, shell_script
from resources.compute.targets import ComputeTarget

STOP_SECONDS = 20


class SubprocessExecutor:
    """Runs the job's script in the background. The handle is ``pid:start time``."""

    def __init__(self, environment: ComputeTarget):
        self.environment = environment

    def script(self, job: JobSpec) -> str:
        return shell_script(job, self.environment)

    def check(self) -> None:
        secrets_of(self.environment)

    def submit(self, job: JobSpec) -> str:
        ThisHost().write(job.script, self.script(job))
        return started(lambda: self._start(job), self.cancel)

    def _start(self, job: JobSpec) -> str:
        with job.log.open("ab") as log:
            child = subprocess.Popen(
                ["/bin/bash", str(job.script)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **secrets_of(self.environment)},
                start_new_session=True,
            )
        return f"{child.pid}:{psutil.Process(child.pid).create_time():.0f}"

    def state(self, handle: str, job: JobSpec) -> State:
        if _process(handle) is not None:
            return State("running")
        return ended(ThisHost().read(job.exit_code), "its process was killed")

    def cancel(self, handle: str) -> None:
        process = _process(handle)
        if process is None:
            return
        os.killpg(process.pid, signal.SIGTERM)
        _, alive = psutil.wait_procs([process], timeout=STOP_SECONDS)
        if alive:
            os.killpg(process.pid, signal.SIGKILL)


def ended(exit_code: bytes, otherwise: str) -> State:
    """The state of a job that no longer runs, by the exit code that it left, if it did."""
    if not exit_code.strip():
        return State("failed", otherwise)
    code = int(exit_code)
    return State("done") if code == 0 else State("failed", f"exit code {code}")


def _process(handle: str) -> psutil.Process | None:
    pid, _, started = handle.partition(":")
    try:
        process = psutil.Process(int(pid))
        same = f"{process.create_time():.0f}" == started
        return process if same and process.status() != psutil.STATUS_ZOMBIE else None
    except psutil.NoSuchProcess:
        return None
