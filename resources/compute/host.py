"""The machine that a scheduler's commands run on: this one, or one that is reached by ssh.

ssh is OpenSSH's own command: keys, agents, jump hosts and known hosts are the user's settings, not ours.
"""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from resources.compute.errors import ComputeError
from resources.compute.targets import ComputeTarget
from storage.errors import TransientError
from storage.files import write_atomic

SECONDS = 60
SSH_FAILED = 255
SSH_OPTIONS = ("-o", "BatchMode=yes", "-o", "ConnectTimeout=15", "-o", "ServerAliveInterval=15")


class Unreachable(ComputeError, TransientError):
    """The machine does not answer now; it may later."""


class Host(Protocol):
    """Runs commands and holds job folders, whose files only their user can read. Every method raises
    :class:`ComputeError`."""

    def run(self, command: Sequence[str]) -> subprocess.CompletedProcess[str]: ...
    def write(self, path: Path, text: str) -> None: ...
    def read(self, path: Path, offset: int = 0) -> bytes:
        """The content of ``path`` from ``offset`` on; empty if there is no such file."""
        ...


class ThisHost:
    """This machine."""

    def run(self, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        try:
            return subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
        except FileNotFoundError as error:
            raise ComputeError(
                f"{command[0]} is not installed here: run where the cluster's commands are, or set tunnel = "
                '"ssh" and host'
            ) from error
        except subprocess.TimeoutExpired as error:
            raise Unreachable(f"{command[0]} did not answer within {SECONDS} s") from error

    def write(self, path: Path, text: str) -> None:
        try:
            write_atomic(path, text, private=True)
        except OSError as error:
            raise ComputeError(_cannot_write(str(path), str(error.strerror))) from error

    def read(self, path: Path, offset: int = 0) -> bytes:
        try:
            with path.open("rb") as stream:
                stream.seek(offset)
                return stream.read()
        except FileNotFoundError:
            return b""
        except PermissionError as error:
            raise ComputeError(
                f"cannot read {path}: it is another user's. Run as that user, or set remote_job_dir to a folder of "
                "your own"
            ) from error


class SshHost:
    """A machine behind ssh."""

    def __init__(self, host: str, user: str | None = None, config: Path | None = None):
        self.login = f"{user}@{host}" if user else host
        self._options = [*SSH_OPTIONS, *(["-F", str(config)] if config else [])]

    def run(self, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        done = self._ssh(shlex.join(command))
        return subprocess.CompletedProcess(
            list(command), done.returncode, done.stdout.decode(), done.stderr.decode()
        )

    def write(self, path: Path, text: str) -> None:
        beside = shlex.quote(f"{path}.part")
        folder, file = shlex.quote(str(path.parent)), shlex.quote(str(path))
        write = f"umask 077 && mkdir -p {folder} && cat > {beside} && mv {beside} {file}"
        done = self._ssh(f"{write} || {{ rm -f {beside}; false; }}", text.encode())
        if done.returncode != 0:
            raise ComputeError(_cannot_write(f"{path} on {self.login}", done.stderr.decode().strip()))

    def read(self, path: Path, offset: int = 0) -> bytes:
        file = shlex.quote(str(path))
        done = self._ssh(f"test ! -e {file} || tail -c +{offset + 1} {file}")
        if done.returncode != 0:
            raise ComputeError(f"cannot read {path} on {self.login}: {done.stderr.decode().strip()}")
        return done.stdout

    def _ssh(self, line: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        # 255 is the code of ssh's own failures, and sbatch uses it too.
        line = f"{{ {line}\n}}; code=$?; [ $code -ne {SSH_FAILED} ] || code=1; exit $code"
        command = ["ssh", *self._options, self.login, line]
        try:
            done = subprocess.run(command, input=stdin, capture_output=True, timeout=SECONDS, check=False)
        except FileNotFoundError as error:
            raise ComputeError("ssh is not installed here") from error
        except subprocess.TimeoutExpired as error:
            raise Unreachable(f"{self.login} did not answer within {SECONDS} s") from error
        if done.returncode == SSH_FAILED:
            said = done.stderr.decode(errors="replace").strip().rstrip(".")
            raise Unreachable(f"cannot reach {self.login}: {said}. Does `ssh {self.login} true` work?")
        return done


def _cannot_write(what: str, said: str) -> str:
    full = any(words in said for words in ("No space left", "quota exceeded"))
    return f"cannot write {what}: {said}" + (": free some space there, and run again" if full else "")


def open_host(target: ComputeTarget) -> Host:
    """The machine from which jobs of ``target`` are submitted."""
    if target.tunnel == "ssh":
        assert target.host is not None
        return SshHost(target.host, target.user, target.ssh_config)
    return ThisHost()


def secrets_of(target: ComputeTarget) -> dict[str, str]:
    """The environment variables that ``target`` names as secrets.

    Raises:
        ComputeError: one is not set.
    """
    missing = [name for name in target.secrets if not os.environ.get(name)]
    if missing:
        raise ComputeError(f"{', '.join(missing)} is not set: put it in the environment")
    return {name: os.environ[name] for name in target.secrets}
