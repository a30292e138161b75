"""A job: the folder with its files, what is to run, and its state."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from resources.compute.errors import ComputeError
from resources.compute.targets import ComputeTarget, has_controls

JobStatus = Literal["pending", "running", "done", "failed", "cancelled"]
TASK = "RETUNE_TASK"
"""Set in the tasks of a job array but the first: their number."""


@dataclass(frozen=True)
class JobFolder:
    """The files of one job, by the path under which the job sees them."""

    path: Path

    @property
    def request(self) -> Path:
        """What the job is to make."""
        return self.path / "work.json"

    @property
    def context(self) -> Path:
        """The Dagster Pipes context."""
        return self.path / "context.json"

    @property
    def messages(self) -> Path:
        """The Dagster Pipes messages that the job writes."""
        return self.path / "messages.jsonl"

    @property
    def assignment(self) -> Path:
        """What the first task of a job array has the others embed."""
        return self.path / "share.json"

    @property
    def script(self) -> Path:
        return self.path / "job.sh"

    @property
    def log(self) -> Path:
        return self.path / "log.txt"

    @property
    def exit_code(self) -> Path:
        return self.path / "exit"

    @property
    def submission(self) -> Path:
        """The record by which another process finds the job again."""
        return self.path / "submitted.json"

    def has_ended(self) -> bool:
        """Whether the job left its exit code; only where the folder is on a file system of this machine."""
        return self.exit_code.exists() and self.exit_code.stat().st_size > 0


@dataclass(frozen=True)
class JobSpec:
    """What is to run: ``python -m MODULE FOLDER`` in ``cwd``.

    Raises:
        ComputeError: a path has a line break or another control character in it, which schedulers have no way to write.

    Attributes:
        name: short, for the scheduler's listings.
        module: the Python module that does the job; its one argument is the job's folder.
        cwd: the working folder, against which settings' relative paths are read.
        needs: folders that the job reads or writes; containers get them mounted under the same paths.
        variables: environment variables, none of them secret.
        detached: no process waits for it.
        distributed: several workers embed a corpus together; the job's own process does little.
        nodes: how many machines it needs, if not all that the target gives.
    """

    name: str
    folder: JobFolder
    module: str
    cwd: Path
    needs: tuple[Path, ...]
    variables: dict[str, str] = field(default_factory=dict[str, str])
    detached: bool = False
    distributed: bool = False
    nodes: int | None = None

    def __post_init__(self) -> None:
        for path in (self.folder.path, self.cwd, *self.needs):
            if has_controls(str(path)):
                raise ComputeError(
                    f"{str(path)!r}: a line break or control character in a path: rename the folder"
                )


@dataclass(frozen=True)
class JobState:
    """The status of a job, and the reason that the executor gives."""

    status: JobStatus
    reason: str = ""

    def __str__(self) -> str:
        return f"{self.status} {self.reason}".strip()

    @property
    def over(self) -> bool:
        return self.status in ("done", "failed", "cancelled")


class Executor(Protocol):
    """Runs jobs on a compute target. Every method raises :class:`~resources.compute.errors.ComputeError`."""

    def check(self) -> None:
        """Raise if a job could not be submitted now."""
        ...

    def script(self, job: JobSpec) -> str:
        """What would run there, as a shell script that also runs by hand."""
        ...

    def submit(self, job: JobSpec) -> str:
        """Start the job; returns the handle that the other methods take."""
        ...

    def state(self, handle: str, folder: JobFolder) -> JobState: ...

    def cancel(self, handle: str) -> None:
        """End the job; one that has ended already is left as it is."""
        ...


def shell_script(job: JobSpec, target: ComputeTarget, head: tuple[str, ...] = (), prefix: str = "") -> str:
    """The job as a shell script. Its last act is to write its exit code to a file, by which its end is known.

    Args:
        head: lines after the first, such as a scheduler's directives.
        prefix: put before the command, such as ``srun``.
    """
    exports = {**target.env_vars, **job.variables}
    python = target.python or sys.executable
    command = shlex.join([python, "-m", job.module, str(job.folder.path)])
    mark = shlex.quote(str(job.folder.exit_code))
    lines = [
        "#!/bin/bash",
        *head,
        f"retune_mark={mark}${{{TASK}:+.${TASK}}}",
        ': > "$retune_mark"',
        f"cd {shlex.quote(str(job.cwd))} || exit 1",
        *(f"export {name}={shlex.quote(value)}" for name, value in exports.items()),
        *target.setup,
        f"{prefix}{command}",
        "code=$?",
        'echo $code > "$retune_mark"',
        "exit $code",
    ]
    return "\n".join(lines) + "\n"
