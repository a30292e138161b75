"""Stages as jobs of a real Slurm: run, cancelled, bereft of their node, detached, and reached by ssh."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from assets_pkg.orchestration.pipes_client import WORKER
from resources.compute.job import JobFolder, JobSpec
from resources.compute.slurm import SlurmExecutor
from resources.compute.targets import ComputeTarget
from tests.apt import install_packages
from tests.command.conftest import Workplace
from tests.compute.accelerator_lock_steps import busy_accelerator
from tests.compute.conftest import OWN_PAIRS, made_of_own_pairs
from tests.compute.slurm_cluster import Cluster
from tests.loopback import free_port
from tests.small_disk import small_disk
from tests.waiting import until

JOBS = ("jobs", "list")


def queue(state: str) -> list[str]:
    """Numbers of the jobs in that state."""
    command = ["squeue", "--noheader", f"--states={state}", "--format=%i"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


def test_a_stage_runs_on_the_cluster_and_leaves_the_accelerator_here_to_others(
    place: Workplace, cluster: Cluster
) -> None:
    mining = ("prep", "prep.hard_negatives_to_mine=3")  # the least work that takes the accelerator
    with busy_accelerator(place):
        code, output = place.retune(*mining, "--run", "my-cluster")
    assert code == 0, output
    assert f"my-cluster: running on {cluster.node}" in output
    assert "nothing is stale" in place.retune(*mining)[1]


def test_a_cancelled_job_is_told_and_leaves_nothing_half_made(place: Workplace, cluster: Cluster) -> None:
    code, output = place.retune(*OWN_PAIRS, "--batch", "gated")
    assert code == 0, output
    until(lambda: bool(queue("running")))
    assert f"running on {cluster.node}" in place.retune(*JOBS)[1]
    cluster.run("scancel", *queue("running"))
    until(lambda: not queue("running,completing"))
    assert "cancelled by scancel" in place.retune(*JOBS)[1]
    assert not made_of_own_pairs(place)
    assert place.retune("jobs", "pick-up")[0] == 0
    (place.home / "gate").touch()
    code, output = place.retune(*OWN_PAIRS, "--run", "gated")
    assert code == 0, output


def test_a_job_whose_node_goes_down_runs_again_when_it_is_back(place: Workplace, cluster: Cluster) -> None:
    command = place.start_forked(*OWN_PAIRS, "--run", "gated")
    until(lambda: bool(queue("running")))
    cluster.set_node("down")
    until(lambda: bool(queue("pending")))
    cluster.set_node("resume")
    # Else in two minutes; but not within the second in which slurmd revoked the job's credential: it would refuse it.
    cluster.run("scontrol", "update", f"jobid={queue('pending')[0]}", "starttime=now+3")
    (place.home / "gate").touch()
    code, output = command.wait()
    assert code == 0, output
    assert output.count("submitted as") == 1  # put back into the queue, not submitted anew
    assert "pending (" in output
    assert made_of_own_pairs(place)


def test_an_interrupt_cancels_the_job(place: Workplace, cluster: Cluster) -> None:
    command = place.start_forked(*OWN_PAIRS, "--run", "gated")
    until(lambda: bool(queue("running")))
    os.kill(command.pid, signal.SIGINT)
    code, _ = command.wait()
    assert code != 0
    until(lambda: not queue("running,pending,completing"))


def test_a_detached_job_waits_its_turn_and_is_picked_up(place: Workplace, cluster: Cluster) -> None:
    cluster.set_node("down")
    try:
        code, output = place.retune(*OWN_PAIRS, "--batch", "my-cluster")
        assert code == 0, output
        until(lambda: bool(queue("pending")))
        assert "pending (" in place.retune(*JOBS)[1]
    finally:
        cluster.set_node("resume")
    until(lambda: not queue("running,pending,completing"))
    assert "done" in place.retune(*JOBS)[1]
    code, output = place.retune("jobs", "pick-up")
    assert code == 0, output
    assert "nothing is stale" in place.retune(*OWN_PAIRS)[1]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--run", "wrong-partition"], "the cluster has no partition 'nowhere'; it has: batch"),
        (["--run", "far-away"], "cannot reach nobody-here@127.0.0.1"),
        (["--run", "greedy"], "Memory specification can not be satisfied"),
        (["--batch", "greedy"], "Memory specification can not be satisfied"),
    ],
)
def test_what_the_cluster_refuses_is_said_plainly(
    place: Workplace, cluster: Cluster, arguments: list[str], said: str
) -> None:
    code, output = place.retune("finetune", *arguments)
    assert code == 1
    assert said in output
    assert "Traceback" not in output
    assert not (place.home / "output" / ".jobs" / "batches").exists()


def test_a_machine_without_slurm_says_so(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    code, output = place.retune("sdg", "--run", "my-cluster")
    assert (code, "sinfo is not installed here" in output) == (1, True)


def test_a_controller_that_is_gone_is_said_plainly(place: Workplace, cluster: Cluster) -> None:
    cluster.stop("slurmctld")
    try:
        code, output = place.retune("sdg", "--run", "my-cluster")
    finally:
        cluster.start("slurmctld")
    assert code == 1
    assert "controller does not answer" in output


def test_the_script_asks_for_what_the_place_says(tmp_path: Path) -> None:
    place = ComputeTarget(
        executor="slurm",
        account="search",
        partition="gpu",
        batch_partition="long",
        time="1-00:00:00",
        nodes=2,
        gpus_per_node=8,
        cpus_per_task=16,
        mem="64G",
        container_image="/images/retune.sqsh",
        mounts=("/lustre:/lustre",),
        setup=("module load cuda",),
    )
    job = JobSpec(
        "checkpoint-1",
        JobFolder(tmp_path / "job"),
        WORKER,
        tmp_path,
        (tmp_path / "output",),
        detached=True,
    )
    script = SlurmExecutor(place).script(job)
    directives = [line for line in script.splitlines() if line.startswith("#SBATCH")]
    asked = {shlex.split(line.removeprefix("#"))[1].removeprefix("--") for line in directives}
    assert asked >= {
        "account=search",
        "partition=long",
        "time=1-00:00:00",
        "nodes=2",
        "gpus-per-node=8",
        "cpus-per-task=16",
        "mem=64G",
        "requeue",
    }
    mounts = f"{tmp_path}:{tmp_path},{tmp_path}/output:{tmp_path}/output,/lustre:/lustre"
    assert f"--container-image=/images/retune.sqsh --container-mounts={mounts} " in script
    assert "\nmodule load cuda\n" in script
    assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0


def test_a_full_disk_for_job_folders_is_said_plainly(place: Workplace, cluster: Cluster) -> None:
    jobs = place.home / "jobs"
    (place.home / "env.toml").write_text(
        f'[small]\nexecutor = "slurm"\nremote_job_dir = "{jobs}"\n'
        f'[gated]\nexecutor = "slurm"\nremote_job_dir = "{jobs}"\n'
        'setup = ["while [ ! -e gate ]; do sleep 0.1; done"]\n',
        "utf-8",
    )
    with small_disk(jobs, "64k") as disk:
        disk.fill()
        for how in ("--run", "--batch"):
            code, output = place.retune(*OWN_PAIRS, how, "small")
            assert code == 1
            assert f"cannot write {jobs}/" in output
            assert "No space left on device: free some space there, and run again" in output
            assert "Traceback" not in output
        assert not (place.home / "output" / ".jobs").exists()
        assert not queue("running,pending,completing")
        disk.grow("8m")
        command = place.start_forked(*OWN_PAIRS, "--run", "gated")
        until(lambda: bool(queue("running")))
        disk.fill()
        (place.home / "gate").touch()
        code, output = command.wait()
        assert code == 1
        assert f"cannot write {jobs}/synthetic_qa-" in output
        assert "No space left on device: free some space there, and run again" in output
        assert not made_of_own_pairs(place)

        disk.grow("16m")
        (place.home / "gate").unlink()
        code, output = place.retune(*OWN_PAIRS, "--batch", "gated")
        assert code == 0, output
        until(lambda: bool(queue("running")))
        disk.fill()
        (place.home / "gate").touch()
        until(lambda: not queue("running,pending,completing"))
        code, output = place.retune("jobs", "list")
        assert code == 0, output
        assert "cannot write" in output
        assert "free some space there, and run again" in " ".join(output.split())
        assert not made_of_own_pairs(place)

        disk.grow("32m")
        code, output = place.retune(*OWN_PAIRS, "--run", "small")
        assert code == 0, output


@pytest.fixture
def ssh_config(tmp_path: Path, cluster: Cluster) -> Iterator[Path]:
    """A real ssh server on this machine, and the client's settings for it."""
    install_packages({"sshd": "openssh-server", "ssh": "openssh-client"})
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / name], check=True)
    (tmp_path / "authorized").write_bytes((tmp_path / "user.pub").read_bytes())
    Path("/run/sshd").mkdir(exist_ok=True)
    port = free_port()
    options = {
        "ListenAddress": f"127.0.0.1:{port}",
        "HostKey": tmp_path / "host",
        "PidFile": "none",
        "AuthorizedKeysFile": tmp_path / "authorized",
        "StrictModes": "no",
        "PermitRootLogin": "prohibit-password",
        "UsePAM": "no",
        "SetEnv": f"SLURM_CONF={os.environ['SLURM_CONF']} PYTHONPATH={os.environ.get('PYTHONPATH', '')}",
    }
    settings = "".join(f"{name} {value}\n" for name, value in options.items())
    (tmp_path / "sshd_config").write_text(settings, "utf-8")
    server = subprocess.Popen(["/usr/sbin/sshd", "-D", "-e", "-f", tmp_path / "sshd_config"])
    client = tmp_path / "ssh_config"
    client.write_text(
        f"Host cluster\n HostName 127.0.0.1\n Port {port}\n IdentityFile {tmp_path / 'user'}\n"
        f" IdentitiesOnly yes\n StrictHostKeyChecking accept-new\n UserKnownHostsFile {tmp_path / 'known'}\n",
        "utf-8",
    )
    try:
        until(lambda: subprocess.run(["ssh", "-F", client, "cluster", "true"], check=False).returncode == 0)
        yield client
    finally:
        server.terminate()
        server.wait(30)


def test_a_cluster_behind_ssh(place: Workplace, cluster: Cluster, ssh_config: Path) -> None:
    remote = place.home / "on the cluster"
    (place.home / "env.toml").write_text(
        f'[behind]\nexecutor = "slurm"\ntunnel = "ssh"\nhost = "cluster"\nssh_config = "{ssh_config}"\n'
        f'remote_job_dir = "{remote}"\n',
        "utf-8",
    )
    with small_disk(remote, "64k") as disk:
        disk.fill()
        code, output = place.retune(*OWN_PAIRS, "--run", "behind")
        assert code == 1
        assert "on cluster: " in output
        assert "No space left on device: free some space there, and run again" in output
        disk.grow("8m")
        code, output = place.retune(*OWN_PAIRS, "--run", "behind")
        assert code == 0, output
        assert f"behind: running on {cluster.node}" in output
        assert {path.name.rpartition("-")[0] for path in remote.glob("*-*")} == {"synthetic_qa"}
    (ssh_config.parent / "authorized").write_text("", "utf-8")  # the key is withdrawn
    code, output = place.retune("finetune", "--run", "behind")
    assert code == 1
    assert "cannot reach cluster: " in output
    assert "Permission denied" in output
