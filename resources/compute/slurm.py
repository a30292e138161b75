"""A job of a Slurm cluster, submitted here or over ssh.

The commands and states are those of https://slurm.schedmd.com/sbatch.html and squeue.html. The job's folder must
lie on a file system that the nodes share, as must the artifacts.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

from resources.compute.errors import ComputeError
from resources.compute.host import Unreachable, open_host, secrets_of
from resources.compute.interrupts import started
from resources.compute.job import TASK, JobFolder, JobSpec, JobState, shell_script
from resources.compute.subprocess import ended
from resources.compute.targets import ComputeTarget

WAITING = (
    "PENDING",
    "CONFIGURING",
    "REQUEUED",
    "REQUEUE_HOLD",
    "REQUEUE_FED",
    "SPECIAL_EXIT",
    "RESV_DEL_HOLD",
)
AT_WORK = ("RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT", "RESIZING")
ENDINGS = {
    "CANCELLED": "by scancel",
    "TIMEOUT": "reached its time limit: raise `time`, and run again to go on from the last checkpoint",
    "OUT_OF_MEMORY": "ran out of memory: raise `mem`, or lower the stage's batch size",
    "NODE_FAIL": "its node failed: run again to go on from the last checkpoint",
    "PREEMPTED": "preempted: run again to go on from the last checkpoint",
    "DEADLINE": "its deadline passed before it could run",
    "BOOT_FAIL": "its node did not boot",
}
UNMOUNTABLE = re.compile(r"[\s,:\\]")
LAUNCH_FAILED = "launch failed requeued held"
BUSY = ("Socket timed out", "Unable to contact slurm controller", "slurm_load_jobs error: Connection")


class SlurmExecutor:
    """Runs the job's script with sbatch. The handle is the job's number; of a job array, the first task's."""

    def __init__(self, target: ComputeTarget):
        self.target = target
        self.host = open_host(target)

    def script(self, job: JobSpec) -> str:
        head = [_directive(option) for option in self._options(job)]
        if job.distributed:
            head += [
                'if [ "${SLURM_ARRAY_TASK_ID:-0}" != 0 ]; then',
                f"  export {TASK}=$SLURM_ARRAY_TASK_ID",
                f"  exec >> {shlex.quote(str(job.folder.path))}/task-${TASK}.txt 2>&1",
                "fi",
            ]
        return shell_script(job, self.target, tuple(head), self._container(job))

    def check(self) -> None:
        secrets_of(self.target)
        for partition in filter(None, (self.target.partition, self.target.batch_partition)):
            if not self._slurm("sinfo", "--noheader", "--partition", partition).strip():
                known = " ".join(self._slurm("sinfo", "--noheader", "--format=%R").split())
                raise ComputeError(f"the cluster has no partition {partition!r}; it has: {known}")

    def submit(self, job: JobSpec) -> str:
        self.host.write(job.folder.script, self.script(job))
        return started(lambda: self._sbatch(job), self.cancel)

    def _sbatch(self, job: JobSpec) -> str:
        # sbatch exports this environment, secrets included; over ssh it is that of the login on the cluster.
        said = self._slurm("sbatch", "--parsable", str(job.folder.script))
        number = said.strip().partition(";")[0]
        if not number.isdigit():
            raise ComputeError(f"sbatch printed no job number, but: {said.strip()}")
        return f"{number}_0" if job.distributed else number

    def state(self, handle: str, folder: JobFolder) -> JobState:
        queued = self._queued(handle)
        if queued is not None:
            return queued
        ending = self._ending(handle)
        if ending == "COMPLETED":
            return JobState("done")
        if ending in ENDINGS:
            return JobState("cancelled" if ending == "CANCELLED" else "failed", ENDINGS[ending])
        return ended(self.host.read(folder.exit_code), f"Slurm says {ending or 'nothing'} of job {handle}")

    def cancel(self, handle: str) -> None:
        self._slurm("scancel", handle.partition("_")[0])

    def _options(self, job: JobSpec) -> Iterator[str]:
        target = self.target
        partition = (target.batch_partition if job.detached else None) or target.partition
        yield f"--job-name=retune-{job.name}"
        yield f"--output={_as_pattern(job.folder.log)}"
        yield "--open-mode=append"
        yield "--requeue"
        if job.distributed:
            yield f"--array=0-{(target.array or 1) - 1}"
        named = {
            "account": target.account,
            "partition": partition,
            "time": target.time,
            "nodes": job.nodes or target.nodes,
            "ntasks-per-node": 1,
            "cpus-per-task": target.cpus_per_task,
            "mem": target.mem,
            "gpus-per-node": target.gpus_per_node,
        }
        yield from (f"--{name}={value}" for name, value in named.items() if value is not None)

    def _container(self, job: JobSpec) -> str:
        """``srun`` with the options of the Pyxis plugin, where a container is asked for."""
        image = self.target.container_image
        if image is None:
            return ""
        shared = [f"{_mountable(path)}:{path}" for path in dict.fromkeys((job.cwd, *job.needs))]
        mounts = [*shared, *(":".join(map(_mountable, mount.split(":"))) for mount in self.target.mounts)]
        srun = [
            "srun",
            "--nodes=1",
            "--ntasks=1",
            f"--container-image={image}",
            f"--container-mounts={','.join(mounts)}",
        ]
        return f"{shlex.join(srun)} "

    def _queued(self, handle: str) -> JobState | None:
        """The state that squeue shows, or None for a job that it no longer lists or that has ended."""
        done = self.host.run(["squeue", "--noheader", "--jobs", handle, "--format=%T|%r|%N"])
        if done.returncode != 0 and "Invalid job id" not in done.stderr:
            raise _refused("squeue", done.stderr)
        state, reason, nodes = [*done.stdout.strip().split("|"), "", "", ""][:3]
        if reason == LAUNCH_FAILED:
            self.cancel(handle)
            return JobState(
                "failed", f"its node could not start it, and Slurm held it: see slurmd's log on {nodes}"
            )
        if state in WAITING:
            return JobState("pending", f"({reason})" if state == "PENDING" else f"{state.lower()} ({reason})")
        if state in AT_WORK:
            return JobState("running", f"on {nodes}" if nodes else "")
        return None

    def _ending(self, handle: str) -> str:
        """Slurm's state of an ended job: from its accounting, or from the controller while that still has it."""
        accounted = self.host.run(["sacct", "-n", "-X", "-P", "-j", handle, "-o", "State"])
        if accounted.returncode == 0 and accounted.stdout.strip():
            return accounted.stdout.split()[0]
        shown = self.host.run(["scontrol", "show", "job", "-o", handle])
        found = re.search(r"JobState=(\w+)", shown.stdout)
        return found[1] if found else ""

    def _slurm(self, *command: str) -> str:
        done = self.host.run(command)
        if done.returncode != 0:
            raise _refused(command[0], done.stderr)
        return done.stdout


def _directive(option: str) -> str:
    """A line that sbatch reads ``option`` from. Unlike a shell, it takes a backslash within quotes as an escape."""
    escaped = option.replace("\\", "\\\\")
    return f"#SBATCH {shlex.quote(escaped)}"


def _as_pattern(path: Path) -> str:
    """``path`` as sbatch reads file names, where ``%j`` is the job's number, and a backslash turns that off.

    Raises:
        ComputeError: there is a backslash in it.
    """
    if "\\" in str(path):
        raise ComputeError(
            f"{path}: sbatch takes no backslash in the path of a job's log: set remote_job_dir"
        )
    return str(path).replace("%", "%%")


def _mountable(path: Path | str) -> str:
    """``path``, if Pyxis can mount it: it splits its list at commas and colons, and enroot each entry at white space.

    Raises:
        ComputeError: it cannot.
    """
    if UNMOUNTABLE.search(str(path)):
        raise ComputeError(
            f"Pyxis cannot mount {str(path)!r}: it has no way to write a space, comma, colon or backslash. Rename "
            "the folder"
        )
    return str(path)


def _refused(program: str, said: str) -> ComputeError:
    lines = [line.removeprefix(f"{program}: ").removeprefix("error: ") for line in said.splitlines()]
    line = "; ".join(line for line in lines if line.strip()) or "no reason given"
    if any(sign in said for sign in BUSY):
        return Unreachable(f"{program}: the Slurm controller does not answer: {line}")
    return ComputeError(f"{program}: {line}")
