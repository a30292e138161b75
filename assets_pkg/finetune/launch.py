"""Start training: in this process, or with torchrun in several processes of this machine or of a Slurm job's nodes.

The parent writes the job to a folder, and the workers print progress and notes as lines of JSON.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from assets_pkg.config.base import ModelSettings
from assets_pkg.config.sections.finetune import FinetuneSettings
from assets_pkg.finetune.errors import TooFewDevicesError, TrainingStopped
from resources.machine.accelerator import VISIBLE, Accelerator, find_accelerator, visible_gpus
from resources.machine.cpus import usable_cpus
from storage.artifacts import Checkpoint, MinedTrainSet
from storage.progress import Note, Progress, no_note, no_progress

WORKER = ("-m", "assets_pkg.finetune")
"""Arguments of Python that run one worker, before the folder."""

STOP_SECONDS = 20
LAST_LINES = 30


def node_count(environment: Mapping[str, str] = os.environ) -> int:
    """Nodes of the Slurm job that this process is in; 1 outside Slurm."""
    return int(environment.get("SLURM_JOB_NUM_NODES", "1"))


def torchrun(processes: int, environment: Mapping[str, str] = os.environ) -> list[str]:
    """The command that starts ``processes`` processes, without the program that they run.

    On several nodes ``srun`` starts a torchrun on each; the rendezvous is on this node, the job's first.

    Raises:
        TrainingStopped: the processes cannot be divided among the nodes.
    """
    run = [sys.executable, "-m", "torch.distributed.run"]
    nodes = node_count(environment)
    if nodes == 1:
        return [*run, "--standalone", f"--nproc-per-node={processes}"]
    if processes % nodes:
        raise TrainingStopped(
            f"finetune.num_processes = {processes} on {nodes} nodes: make it a multiple of {nodes}, one for each GPU"
        )
    srun = ["srun", f"--nodes={nodes}", f"--ntasks={nodes}", "--ntasks-per-node=1"]
    cpus = environment.get("SLURM_CPUS_PER_TASK")
    rendezvous = [
        f"--nnodes={nodes}",
        f"--nproc-per-node={processes // nodes}",
        "--rdzv-backend=c10d",
        f"--rdzv-id={environment['SLURM_JOB_ID']}",
        f"--rdzv-endpoint={socket.gethostname()}:{_free_port()}",
    ]
    return [*srun, *([f"--cpus-per-task={cpus}"] if cpus else []), *run, *rendezvous]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True)
class _WorkerFiles:
    """Files that the parent and its workers exchange: the job, the error of a worker, and torchrun's log."""

    folder: Path

    @property
    def job(self) -> Path:
        return self.folder / "job.json"

    @property
    def error(self) -> Path:
        return self.folder / "error.txt"

    @property
    def log(self) -> Path:
        return self.folder / "log.txt"


def launch_training(
    mined: MinedTrainSet,
    base: Checkpoint,
    model: ModelSettings,
    settings: FinetuneSettings,
    accelerator: Accelerator,
    folder: Path,
    progress: Progress = no_progress,
    note: Note = no_note,
) -> None:
    """:func:`~assets_pkg.finetune.train.finetune` in ``settings.num_processes`` processes: in this one if there is
    only one.

    Raises:
        TrainingStopped: a worker failed; with its message, or the last lines it wrote.
        TooFewDevicesError: there are more processes than GPUs.
    """
    if settings.num_processes == node_count() == 1:
        from assets_pkg.finetune.train import finetune

        finetune(mined, base, model, settings, accelerator, folder, progress, note)
        return
    gpus = visible_gpus() * node_count()
    if accelerator.device.startswith("cuda") and settings.num_processes > gpus:
        raise TooFewDevicesError(
            f"finetune.num_processes = {settings.num_processes}, one for each GPU, but torch sees {gpus} "
            f"({VISIBLE}={os.environ.get(VISIBLE, 'not set')})"
        )
    # Below ``folder``, which other nodes can read.
    with tempfile.TemporaryDirectory(prefix=".processes-", dir=folder) as temporary:
        files = _WorkerFiles(Path(temporary))
        job = {
            "mined": [str(mined.path.absolute()), mined.asset, mined.version],
            "base": [str(base.path.absolute()), base.asset, base.version],
            "model": model.model_dump(mode="json"),
            "settings": settings.model_dump(mode="json"),
            "device": accelerator.device.partition(":")[0],
            "check_memory": accelerator.memory_bytes > 0,
            "folder": str(folder.absolute()),
        }
        files.job.write_text(json.dumps(job), "utf-8")
        _launch(files, settings.num_processes, progress, note)


def threads_each(processes: int) -> int:
    """The threads of each process, of the cores that they may use on all nodes."""
    return max(1, usable_cpus() * node_count() // processes)


def _launch(files: _WorkerFiles, count: int, progress: Progress, note: Note) -> None:
    command = [*torchrun(count), *WORKER, str(files.folder)]
    with files.log.open("w") as log:
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env={"OMP_NUM_THREADS": str(threads_each(count)), **os.environ},
        )
        try:
            assert process.stdout is not None
            _forward(process.stdout, progress, note)
            code = process.wait()
        finally:
            _stop(process)
    if code != 0:
        output = files.error if files.error.exists() else files.log
        last = output.read_text("utf-8", errors="replace").splitlines()[-LAST_LINES:]
        raise TrainingStopped("\n".join(last) or f"training in {count} processes ended with code {code}")


def _forward(lines: Iterable[str], progress: Progress, note: Note) -> None:
    """Report what the workers print; other lines are ignored."""
    for line in lines:
        if line.startswith('{"note"'):
            note(json.loads(line)["note"])
        elif line.startswith('{"done"'):
            message = json.loads(line)
            progress(message["done"], message["total"], message["unit"], **message["figures"])


def _stop(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        process.terminate()  # torchrun terminates its workers
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()


def run_worker(folder: Path) -> None:
    """One worker: read the job in ``folder``, join the process group, train."""
    from assets_pkg.finetune.distributed import init_process_group
    from assets_pkg.finetune.train import finetune

    files = _WorkerFiles(folder)
    job: dict[str, Any] = json.loads(files.job.read_text("utf-8"))
    accelerator = find_accelerator(init_process_group(job["device"]), check_memory=job["check_memory"])
    try:
        finetune(
            MinedTrainSet(Path(job["mined"][0]), *job["mined"][1:]),
            Checkpoint(Path(job["base"][0]), *job["base"][1:]),
            ModelSettings.model_validate(job["model"]),
            FinetuneSettings.model_validate(job["settings"]),
            accelerator,
            Path(job["folder"]),
            _print_progress,
            lambda text: _print_message({"note": text}),
        )
    except Exception as error:
        files.error.write_text(f"{type(error).__name__}: {error}", "utf-8")
        raise


def _print_progress(done: int, total: int, unit: str, **figures: float) -> None:
    _print_message({"done": done, "total": total, "unit": unit, "figures": figures})


def _print_message(message: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()
