"""A job: the folder that carries it, and how it stands."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from resources.compute.targets import ComputeTarget

EntryPoint = tuple[str, ...]
Standing = Literal["pending", "running", "done", "failed", "cancelled"]
TASK = "RETUNE_TASK"
"""Set in the tasks of a job array but the first: their number."""

ENTRY: EntryPoint = ("-m", "assets_pkg.job_worker")


@dataclass(frozen=True)
class JobSpec:
    """What is to run somewhere: ``python -m assets_pkg.job_worker FOLDER`` in ``cwd``.

    Attributes:
        name: short, for the scheduler's listings.
        folder: the job's files (work to do, messages, log, exit code), where the job sees them.
        cwd: the working folder, against which settings' relative paths are read.
        needs: folders that the job reads or writes; containers get them mounted under the same paths.
        variables: environment variables, none of them secret.
        detached: submitted for later; nobody waits.
        nodes: how many machines it needs, if not all that the place gives.
        spread: several workers embed a corpus together; the job's own process does little.
    """

    name: str
    folder: Path
    cwd: Path
    needs: tuple[Path, ...]
    variables: dict[str, str] = field(default_factory=dict[str, str])
    detached: bool = False
    spread: bool = False
    nodes: int | None = None

    @property
    def work(self) -> Path:
        return self.folder / "work.json"

    @property
    def context(self) -> Path:
        return self.folder / "context.json"

    @property
    def messages(self) -> Path:
        return self.folder / "messages.jsonl"

    @property
    def share(self) -> Path:
        """What the first task of a job array tells the others to do."""
        return self.folder / "share.json"

    @property
    def script(self) -> Path:
        return self.folder / "job.sh"

    @property
    def log(self) -> Path:
        return self.folder / "log.txt"

    @property
    def exit_code(self) -> Path:
        return self.folder / "exit"


@dataclass(frozen=True)
class State:
    """How a job stands, and why, in the executor's words."""

    standing: Standing
    reason: str = ""

    def __str__(self) -> str:
        return f"{self.standing} {self.reason}".strip()

    @property
    def over(self) -> bool:
        return self.standing in ("done", "failed", "cancelled")


class Executor(Protocol):
    """Runs jobs somewhere. Every method raises `ComputeError` in plain words."""

    def check(self) -> None:
        """Raise if a job could not be submitted now."""
        ...

    def script(self, job: JobSpec) -> str:
        """What would run there, as a shell script that also runs by hand."""
        ...

    def submit(self, job: JobSpec) -> str:
        """Start the job; returns the handle that the other methods take."""
        ...

    def state(self, handle: str, job: JobSpec) -> State: ...

    def cancel(self, handle: str) -> None:
        """End the job; one that is over already is left as it is."""
        ...


def shell_script(
    job: JobSpec, environment: ComputeTarget, head: tuple[str, ...] = (), prefix: str = ""
) -> str:
    """The job as a shell script. It leaves its exit code in a file, the mark by which its end is known.

    Args:
        head: lines after the first, such as a scheduler's directives.
        prefix: put before the command, such as ``srun``.
    """
    exports = {**environment.env_vars, **job.variables}
    python = environment.python or sys.executable
    command = shlex.join([python, *ENTRY, str(job.folder)])
    mark = shlex.quote(str(job.exit_code))
    lines = [
        "#!/bin/bash",
        *head,
        f"retune_mark={mark}${{{TASK}:+.${TASK}}}",
        ': > "$retune_mark"',
        f"cd {shlex.quote(str(job.cwd))} || exit 1",
        *(f"export {name}={shlex.quote(value)}" for name, value in exports.items()),
        *environment.setup,
        f"{prefix}{command}",
        "code=$?",
        'echo $code > "$retune_mark"',
        "exit $code",
    ]
    return "\n".join(lines) + "\n"
