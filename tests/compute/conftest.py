"""A project whose stages run somewhere else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.command.conftest import Workplace, make_workplace
from tests.compute.slurm_cluster import Cluster, running_cluster

PLACES = """
[child]
executor = "subprocess"

[my-cluster]
executor = "slurm"
partition = "batch"

[elsewhere]
executor = "slurm"
partition = "nowhere"

[gated]
executor = "slurm"
setup = ["while [ ! -e gate ]; do sleep 0.1; done"]

[greedy]
executor = "slurm"
mem = "900G"

[far-away]
executor = "slurm"
tunnel = "ssh"
host = "127.0.0.1"
user = "nobody-here"
"""


@pytest.fixture
def place(tmp_path: Path, tiny_model: Path) -> Workplace:
    """Documents, a profile and an ``env.toml``."""
    made = make_workplace(tmp_path / "place", tiny_model, documents=12)
    (made.home / "env.toml").write_text(PLACES, "utf-8")
    return made


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A real Slurm of one node."""
    with running_cluster(tmp_path_factory.mktemp("slurm")) as started:
        yield started
