"""A real Slurm of one node for the tests, private to them: its controller, its node's daemon and its keys.

See https://slurm.schedmd.com/slurm.conf.html. Everything lies in one folder; the commands find it by ``SLURM_CONF``.
"""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.apt import install_packages
from tests.loopback import free_port

DAEMONS = ("munged", "slurmctld", "slurmd")
PARTITION = "batch"


@dataclass
class Cluster:
    """The running cluster; its daemons can be stopped and started as a failing node's would."""

    folder: Path
    daemons: dict[str, subprocess.Popen[bytes]]

    @property
    def node(self) -> str:
        return socket.gethostname().partition(".")[0]

    def run(self, *command: str) -> str:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    def node_state(self) -> str:
        return self.run("sinfo", "--noheader", "--nodes", self.node, "--format=%T")

    def set_node(self, state: str) -> None:
        """``down`` or ``resume``, as an administrator does."""
        reason = ["reason=test"] if state == "down" else []
        self.run("scontrol", "update", f"nodename={self.node}", f"state={state}", *reason)

    def start(self, daemon: str) -> None:
        munge = {
            "key-file": "key",
            "socket": "socket",
            "pid-file": "pid",
            "log-file": "log",
            "seed-file": "seed",
        }
        options = [f"--{option}={self.folder}/munge.{ending}" for option, ending in munge.items()]
        slurm = ["-D", "-f", str(self.folder / "slurm.conf")]
        command = [daemon, *(["--foreground", "--force", *options] if daemon == "munged" else slurm)]
        with (self.folder / f"{daemon}.out").open("ab") as log:
            self.daemons[daemon] = subprocess.Popen(command, stdout=log, stderr=log)

    def stop(self, daemon: str) -> None:
        process = self.daemons.pop(daemon, None)
        if process is not None:
            process.terminate()
            process.wait(60)


@contextmanager
def running_cluster(folder: Path) -> Generator[Cluster]:
    """Start the cluster with its files in ``folder``; set ``SLURM_CONF`` to ``folder/slurm.conf`` to use it."""
    install_packages({"slurmctld": "slurm-wlm", "munged": "munge"})
    (folder / "munge.key").write_bytes(os.urandom(1024))
    (folder / "munge.key").chmod(0o400)
    for name in ("state", "spool"):
        (folder / name).mkdir()
    (folder / "slurm.conf").write_text(_configuration(folder), "utf-8")
    cluster = Cluster(folder, {})
    before = os.environ.get("SLURM_CONF")
    os.environ["SLURM_CONF"] = str(folder / "slurm.conf")
    try:
        for daemon in DAEMONS:
            cluster.start(daemon)
        _await_idle(cluster)
        yield cluster
    finally:
        for daemon in reversed(DAEMONS):
            cluster.stop(daemon)
        os.environ.pop("SLURM_CONF")
        if before is not None:
            os.environ["SLURM_CONF"] = before


def _configuration(folder: Path) -> str:
    controller, node = free_port(), free_port()
    host = socket.gethostname().partition(".")[0]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20
    lines = [
        "ClusterName=retune-test",
        f"SlurmctldHost={host}(127.0.0.1)",
        "SlurmUser=root",
        "AuthType=auth/munge",
        f"AuthInfo=socket={folder / 'munge.socket'}",
        "CryptoType=crypto/munge",
        "ProctrackType=proctrack/linuxproc",
        "TaskPlugin=task/none",
        "SelectType=select/cons_tres",
        "SelectTypeParameters=CR_Core",
        "ReturnToService=1",
        "SlurmdTimeout=15",
        "KillWait=2",
        "SchedulerParameters=sched_interval=1,batch_sched_delay=0,bf_interval=1",
        f"SlurmctldPort={controller}",
        f"SlurmdPort={node}",
        f"StateSaveLocation={folder / 'state'}",
        f"SlurmdSpoolDir={folder / 'spool'}",
        f"SlurmctldPidFile={folder / 'slurmctld.pid'}",
        f"SlurmdPidFile={folder / 'slurmd.pid'}",
        f"NodeName={host} NodeAddr=127.0.0.1 CPUs={os.cpu_count()} RealMemory={memory - 500} State=UNKNOWN",
        f"PartitionName={PARTITION} Nodes=ALL Default=YES MaxTime=INFINITE State=UP",
    ]
    return "\n".join(lines) + "\n"


def _await_idle(cluster: Cluster) -> None:
    deadline = time.monotonic() + 60
    said = ""
    while time.monotonic() < deadline:
        done = subprocess.run(["sinfo", "-h", "-o", "%T"], capture_output=True, text=True, check=False)
        said = done.stdout + done.stderr
        if done.stdout.strip() == "idle":
            return
        time.sleep(0.2)
    logs = "\n".join((cluster.folder / f"{daemon}.out").read_text()[-1500:] for daemon in DAEMONS)
    raise AssertionError(f"Slurm did not start: {said}\n{logs}")
