"""``env.toml``: what is read, and what is said of what cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest

from resources.compute.errors import ComputeError
from resources.compute.targets import read_target, read_wandb

GIVEN = """
[wandb]
project = "tuning"
entity = "search"

[my-cluster]
executor = "slurm"
account = "search"
partition = "gpu"
batch_partition = "long"
tunnel = "ssh"
host = "login.cluster"
user = "me"
remote_job_dir = "/lustre/me/jobs"
nodes = 2
gpus_per_node = 8
time = "1-12:00:00"
mounts = ["/lustre:/lustre", "/home/me/models:/models:ro"]

[local-docker]
executor = "docker"
container_image = "retune:latest"
runtime = "nvidia"
ipc_mode = "host"
shm_size = "16g"
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "env.toml"
    path.write_text(GIVEN, "utf-8")
    return path


def test_targets_are_read_by_name(file: Path) -> None:
    cluster = read_target(file, "my-cluster")
    assert (cluster.executor, cluster.nodes, cluster.gpus_per_node) == ("slurm", 2, 8)
    assert cluster.remote_job_dir == Path("/lustre/me/jobs")
    assert read_target(file, "local-docker").shm_size == "16g"
    assert read_wandb(file) == {"project": "tuning", "entity": "search"}


def test_single_keys_are_overridden_with_their_types(file: Path) -> None:
    changed = read_target(file, "my-cluster", {"partition": "debug", "nodes": "1", "mounts": '["/a:/b"]'})
    assert (changed.partition, changed.nodes, changed.mounts) == ("debug", 1, ("/a:/b",))


@pytest.mark.parametrize(
    ("name", "overrides", "said"),
    [
        ("my-clutser", {}, "has no compute target 'my-clutser'; it has: local-docker, my-cluster"),
        ("wandb", {}, "has no compute target 'wandb'"),
        ("my-cluster", {"partitions": "gpu"}, "partitions: no such key (did you mean 'partition'?)"),
        ("my-cluster", {"nodes": "0"}, "nodes: input should be greater than or equal to 1"),
        ("my-cluster", {"time": "soon"}, "time: string should match pattern"),
        ("my-cluster", {"executor": "lsf"}, "executor: input should be 'inline', 'subprocess'"),
        ("local-docker", {"tunnel": "ssh", "host": "x"}, "tunnel 'ssh' goes with executor 'slurm'"),
        ("my-cluster", {"env_vars": '{HF_TOKEN = "x"}'}, "list its name under secrets"),
    ],
)
def test_what_is_wrong_is_named(file: Path, name: str, overrides: dict[str, str], said: str) -> None:
    with pytest.raises(ComputeError) as error:
        read_target(file, name, overrides)
    assert said in str(error.value)
    assert str(file) in str(error.value)


def test_a_missing_file_says_what_to_write(tmp_path: Path) -> None:
    with pytest.raises(ComputeError, match="describe the compute target there"):
        read_target(tmp_path / "env.toml", "my-cluster")
    assert read_wandb(tmp_path / "env.toml") == {}


def test_a_file_that_is_not_toml_is_named(tmp_path: Path) -> None:
    (tmp_path / "env.toml").write_text("[a\n", "utf-8")
    with pytest.raises(ComputeError, match=r"env\.toml: not readable as TOML"):
        read_target(tmp_path / "env.toml", "a")
