"""A job from its submission to its end: waited for, found again by another process, cancelled by interrupts."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass

from resources.compute.errors import ComputeError, JobFailed
from resources.compute.executors import make_executor
from resources.compute.host import Host, Unreachable, open_host
from resources.compute.job import Executor, JobFolder, JobSpec, JobState
from resources.compute.targets import ComputeTarget

LOCAL_POLL_SECONDS = 0.5
REMOTE_POLL_SECONDS = 3.0
MAX_SILENCE_SECONDS = 300.0
LAST_LINES = 30


@dataclass(frozen=True)
class Submission:
    """On which target a job was submitted, and its handle there; kept in the job's folder."""

    target: str
    handle: str

    def dump(self) -> str:
        return json.dumps({"place": self.target, "handle": self.handle})

    @classmethod
    def load(cls, text: str | bytes) -> Submission:
        record = json.loads(text)
        return cls(record["place"], record["handle"])


class JobMonitor:
    """Submits one job and waits for it. ``handle`` is that of a job in ``folder`` that an earlier process submitted and
    that has not ended, None if there is none.

    Raises:
        ComputeError: the target cannot be reached.
    """

    def __init__(self, target_name: str, target: ComputeTarget, folder: JobFolder):
        self.target_name = target_name
        self.folder = folder
        self.host: Host = open_host(target)
        self.executor: Executor = make_executor(target)
        self._poll_seconds = REMOTE_POLL_SECONDS if target.tunnel == "ssh" else LOCAL_POLL_SECONDS
        self.handle = self._running()

    @contextmanager
    def cancelled_by_interrupts(self) -> Generator[None]:
        """Ctrl-C, or Dagster's interruption, in the block also cancels the job."""
        try:
            yield
        except BaseException as error:
            if self.handle is not None and not isinstance(error, Exception):
                self.executor.cancel(self.handle)
            raise

    def submit(self, job: JobSpec, request: str) -> None:
        """Write ``request`` into the job's folder and start it. A job that cannot be recorded is cancelled."""
        for leftover in (self.folder.exit_code, self.folder.messages, self.folder.assignment):
            self.host.write(leftover, "")
        self.host.write(self.folder.request, request)
        self.handle = self.executor.submit(job)
        try:
            self.host.write(self.folder.submission, Submission(self.target_name, self.handle).dump())
        except BaseException:
            self.executor.cancel(self.handle)
            raise

    def wait(self, on_poll: Callable[[JobState], None]) -> None:
        """Until the job is done, calling ``on_poll`` with its state now and then.

        Raises:
            JobFailed: it failed or was cancelled.
            ComputeError: its target did not answer for :data:`MAX_SILENCE_SECONDS`; the job may still run there.
        """
        assert self.handle is not None
        state = self._poll(self.handle, on_poll)
        if state.status != "done":
            reason = why_failed(state, self.host, self.folder)
            raise JobFailed(f"{self.target_name}: {reason}{self._last_lines()}")

    def _poll(self, handle: str, on_poll: Callable[[JobState], None]) -> JobState:
        silent_since: float | None = None
        while True:
            try:
                state = self.executor.state(handle, self.folder)
                on_poll(state)
                silent_since = None
                if state.over:
                    return state
            except Unreachable:
                silent_since = silent_since or time.monotonic()
                if time.monotonic() - silent_since > MAX_SILENCE_SECONDS:
                    raise
            time.sleep(self._poll_seconds)

    def _running(self) -> str | None:
        record = self.host.read(self.folder.submission)
        if not record:
            return None
        submission = Submission.load(record)
        if submission.target != self.target_name:
            return None
        over = self.executor.state(submission.handle, self.folder).over
        return None if over else submission.handle

    def _last_lines(self) -> str:
        lines = self.host.read(self.folder.log).decode("utf-8", "replace").splitlines()[-LAST_LINES:]
        return "".join(f"\n  {line}" for line in lines)


def why_failed(state: JobState, host: Host, folder: JobFolder) -> str:
    """The reason of ``state``, and the error of writing to the job's folder if that fails: a job on a full disk ends
    without a message."""
    try:
        host.write(folder.request, host.read(folder.request).decode("utf-8"))
    except ComputeError as error:
        return f"{state.reason}; {error}"
    return state.reason
