"""Several training processes on this machine, or on all nodes of a Slurm job."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Mapping

from assets_pkg.finetune.errors import TrainingStopped


def node_count(environment: Mapping[str, str] = os.environ) -> int:
    """Nodes of the Slurm job that this process is in; 1 elsewhere."""
    return int(environment.get("SLURM_JOB_NUM_NODES", "1"))


def torchrun(processes: int, environment: Mapping[str, str] = os.environ) -> list[str]:
    """The command that starts ``processes`` processes, without what they run.

    On several nodes ``srun`` starts a torchrun on each; they meet at this one, the job's first.

    Raises:
        TrainingStopped: the processes cannot be divided among the nodes.
    """
    run = [sys.executable, "-m", "torch.distributed.run"]
    nodes = node_count(environment)
    if nodes == 1:
        return [*run, "--standalone", f"--nproc-per-node={processes}"]
    if processes % nodes:
        raise TrainingStopped(
            f"finetune.num_processes = {processes} on {nodes} nodes: make it a multiple of {nodes}, one a GPU"
        )
    srun = ["srun", f"--nodes={nodes}", f"--ntasks={nodes}", "--ntasks-per-node=1"]
    cpus = environment.get("SLURM_CPUS_PER_TASK")
    meeting = [
        f"--nnodes={nodes}",
        f"--nproc-per-node={processes // nodes}",
        "--rdzv-backend=c10d",
        f"--rdzv-id={environment['SLURM_JOB_ID']}",
        f"--rdzv-endpoint={socket.gethostname()}:{_free_port()}",
    ]
    return [*srun, *([f"--cpus-per-task={cpus}"] if cpus else []), *run, *meeting]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])
