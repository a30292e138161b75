"""A job from its submission to its end: watched, found again by another process, ended by interrupts."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from resources.compute.errors import ComputeError, JobFailed
from resources.compute.executors import make_executor
from resources.compute.host import Host, Unreachable, open_host
from resources.compute.job import Executor, JobSpec, State
from resources.compute.targets import ComputeTarget

LOCAL_POLL_SECONDS = 0.5
REMOTE_POLL_SECONDS = 3.0
PATIENCE_SECONDS = 300.0
LAST_LINES = 30


@dataclass(frozen=True)
class Submitted:
    """The record of a submission, kept in the job's folder so that another process finds the job again."""

    place: str
    handle: str


class JobMonitor:
    """One job and the one who waits for it. A job that an earlier, killed process submitted is taken up again."""

    def __init__(self, place: str, environment: ComputeTarget, job: JobSpec):
        self.place = place
        self.job = job
        self.host: Host = open_host(environment)
        self.executor: Executor = make_executor(environment)
        self._seconds = REMOTE_POLL_SECONDS if environment.tunnel == "ssh" else LOCAL_POLL_SECONDS
        self.handle = self._running()

    @contextmanager
    def ended_by_interrupts(self) -> Generator[None]:
        """Ctrl-C, or Dagster's interruption, in the block also ends the job."""
        try:
            yield
        except BaseException as error:
            if self.handle is not None and not isinstance(error, Exception):
                self.executor.cancel(self.handle)
            raise

    def submit(self, job: JobSpec, work: str) -> None:
        """Write ``work`` into the folder of ``job`` and start it. A job that cannot be recorded is ended again."""
        for stale in (job.exit_code, job.messages, job.share):
            self.host.write(stale, "")
        self.host.write(job.work, work)
        self.handle = self.executor.submit(job)
        try:
            self._keep(self.handle)
        except BaseException:
            self.executor.cancel(self.handle)
            raise

    def wait(self, meanwhile: Callable[[State], None]) -> None:
        """Until the job is done, calling ``meanwhile`` now and then.

        Raises:
            JobFailed: it failed or was ended.
            ComputeError: its place could not be asked for long; the job may still run there.
        """
        assert self.handle is not None
        state = self._follow(self.handle, meanwhile)
        if state.standing != "done":
            raise JobFailed(f"{self.place}: {why_failed(state, self.host, self.job)}{self._last_lines()}")

    def _follow(self, handle: str, meanwhile: Callable[[State], None]) -> State:
        silent_since: float | None = None
        while True:
            try:
                state = self.executor.state(handle, self.job)
                meanwhile(state)
                silent_since = None
                if state.over:
                    return state
            except Unreachable:
                silent_since = silent_since or time.monotonic()
                if time.monotonic() - silent_since > PATIENCE_SECONDS:
                    raise
            time.sleep(self._seconds)

    def _running(self) -> str | None:
        record = self.host.read(self._record)
        if not record:
            return None
        told = Submitted(**json.loads(record))
        if told.place != self.place or self.executor.state(told.handle, self.job).over:
            return None
        return told.handle

    def _keep(self, handle: str) -> None:
        self.host.write(self._record, json.dumps({"place": self.place, "handle": handle}))

    @property
    def _record(self) -> Path:
        return self.job.folder / "submitted.json"

    def _last_lines(self) -> str:
        lines = self.host.read(self.job.log).decode("utf-8", "replace").splitlines()[-LAST_LINES:]
        return "".join(f"\n  {line}" for line in lines)


def why_failed(state: State, host: Host, job: JobSpec) -> str:
    """The reason of ``state``, and what it says of the job's folder if that cannot be written: a job on a full disk
    ends without a word."""
    try:
        host.write(job.work, host.read(job.work).decode("utf-8"))
    except ComputeError as error:
        return f"{state.reason}; {error}"
    return state.reason
