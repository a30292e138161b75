"""A job array of a real Slurm, and the processes of several nodes."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from assets_pkg.finetune.errors import TrainingStopped
from assets_pkg.finetune.launch import torchrun
from resources.compute.job import JobFolder
from tests.command.conftest import Workplace
from tests.compute.conftest import embed_in_a_job
from tests.compute.slurm_cluster import Cluster

ARRAY = """
[array]
executor = "slurm"
array = 2
"""


def test_the_tasks_of_an_array_embed_the_corpus(unindexed: Workplace, cluster: Cluster) -> None:
    (unindexed.home / "env.toml").write_text(ARRAY, "utf-8")
    embed_in_a_job(unindexed, "array")
    job = next((unindexed.home / "output" / ".jobs").glob("corpus_embeddings-*"))
    assert "#SBATCH --array=0-1" in (job / "job.sh").read_text()
    assigned = json.loads((job / "share.json").read_text())
    assert assigned["tasks"] == 2
    assert not Path(assigned["folder"]).exists()
    vectors = next((unindexed.home / "output" / "artifacts" / "corpus_embeddings").iterdir())
    assert json.loads((vectors / "embeddings.json").read_text())["count"] > 0
    assert json.loads(JobFolder(job).submission.read_text())["handle"].endswith("_0")
    assert (unindexed.home / "output" / "reindex" / "index").exists()


def test_processes_are_started_on_every_node() -> None:
    job = {"SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_ID": "7", "SLURM_CPUS_PER_TASK": "16"}
    command = torchrun(16, job)
    assert command[:5] == ["srun", "--nodes=2", "--ntasks=2", "--ntasks-per-node=1", "--cpus-per-task=16"]
    assert {"--nnodes=2", "--nproc-per-node=8", "--rdzv-backend=c10d", "--rdzv-id=7"} <= set(command)
    assert any(part.startswith(f"--rdzv-endpoint={socket.gethostname()}:") for part in command)
    assert torchrun(4, {})[-2:] == ["--standalone", "--nproc-per-node=4"]
    with pytest.raises(TrainingStopped, match=r"finetune\.num_processes = 3 on 2 nodes"):
        torchrun(3, job)
