"""Commands in processes that are forked from one which has already imported what they need.

Importing torch and what builds on it takes five seconds of processor time, more than most commands of the tests need
for their own work. Such a process has its own folder, environment, session and exit; ``__main__`` and ``sys.argv`` are
those of ``python -m assets_pkg.cli``. It shares two things with the process it was forked from: the hash seed, and what
libraries read from the environment while they were imported. ``CommandServer.serves`` checks the second.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from resources.machine.imports import spare_imports

COMMAND = "assets_pkg.cli"
IMPORTED = (
    "assets_pkg.automation.execute",
    "assets_pkg.automation.external_changes",
    "assets_pkg.build",
    "assets_pkg.finetune.preflight",
    "assets_pkg.finetune.run",
    "assets_pkg.nim.batching",
    "assets_pkg.nim.settings",
    "assets_pkg.orchestration.compute_logs",
    "assets_pkg.orchestration.plan",
    "dagster._core.execution.execute_in_process",
    "dagster._core.instance.factory",
    "dagster._core.storage.sqlite_storage",
    "datasketch",
    "dotenv.main",
    "ir_measures",
    "lance_namespace",
    "matplotlib.backends.backend_agg",
    "matplotlib.pyplot",
    "onnx",
    "pyarrow.parquet",
    "requests",
    "resources.encoders.packed_linear",
    "resources.encoders.speed",
    "scipy.cluster.hierarchy",
    "sentence_transformers.sentence_transformer.losses",
    "sentencex",
    "torch.utils.tensorboard",
    "transformers.models.bert.modeling_bert",
    "transformers.models.bert.tokenization_bert",
    "typer.rich_utils",
    "upath.implementations.local",
)
"""Imported before the fork. Not lancedb and onnxruntime: the threads they start would not exist in a forked process.
Not assets_pkg.cli: it reads ``RETUNE_PROFILE`` while it is imported."""

READ_LATER = (
    "ALL_PROXY",
    "AWS_",
    "DAGSTER",
    "DOCKER_HOST",
    "HF_TOKEN",
    "HTTPS_PROXY",
    "HTTP_PROXY",
    "KMP_DUPLICATE_LIB_OK",
    "KMP_INIT_AT_FORK",
    "MILVUS_TOKEN",
    "NGC_API_KEY",
    "NO_PROXY",
    "NVIDIA_API_KEY",
    "OPENAI_API_KEY",
    "PATH",
    "PYTEST_",
    "RAY_",
    "RETUNE",
    "SLURM_CONF",
    "TORCHINDUCTOR_CACHE_DIR",
    "WANDB_",
    "all_proxy",
    "http_proxy",
    "https_proxy",
    "no_proxy",
)
"""Beginnings of environment variables that nothing in ``IMPORTED`` reads while it is imported, or that torch sets
then."""


class Command:
    """A command in a process and session of its own, by the id of both."""

    def __init__(self, channel: socket.socket, output: IO[bytes]):
        self._channel = channel
        self._output = output
        self.pid = int(_answer(channel))
        self.waited_for = False

    def printed(self) -> str:
        """Everything printed so far."""
        # Not through the file, whose position is also where the command writes.
        content = os.pread(self._output.fileno(), os.fstat(self._output.fileno()).st_size, 0)
        return content.decode("utf-8")

    def await_step(self, step: str) -> None:
        """Wait until it has printed a line that begins with the word ``step``."""
        handle = os.pidfd_open(self.pid)
        while not any(line.split()[:1] == [step] for line in self.printed().splitlines()):
            ended, _, _ = select.select([handle], [], [], 0.02)
            assert not ended, f"the command ended before {step} began:\n{self.printed()}"
        os.close(handle)

    def wait(self) -> tuple[int, str]:
        """Exit code and everything printed."""
        code = int(_answer(self._channel))
        self.waited_for = True
        with self._output:
            return code, self.printed()

    def kill(self) -> str:
        """Kill it, and what it has started in its own session; gives everything printed."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        return self.wait()[1]


def _answer(channel: socket.socket) -> bytes:
    answer = channel.recv(64)
    assert answer, "the process that commands are forked from has ended"
    return answer


class CommandServer:
    """The process that others are forked from, one at a time; it ends with the process that started it."""

    def __init__(self, environment: Mapping[str, str]):
        self._environment = _read_early(environment)
        self._last: Command | None = None
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(theirs.fileno())],
                cwd=Path(__file__).parents[2],
                env=environment,
                pass_fds=[theirs.fileno()],
            )
        atexit.register(self._end)

    def serves(self, environment: Mapping[str, str]) -> bool:
        """Whether the imported libraries would be the same in a process with this environment."""
        return self._environment == _read_early(environment)

    def start(
        self,
        arguments: Sequence[str],
        folder: Path,
        environment: Mapping[str, str],
        kill_after: float | None = None,
    ) -> Command:
        """Start a command, after the end of the one before: a test that failed did not wait for it.

        Args:
            kill_after: seconds after which the process, and nothing that it has started, is killed with SIGKILL.
        """
        if self._last is not None and not self._last.waited_for:
            self._last.kill()
        request = json.dumps([kill_after, list(arguments), str(folder), dict(environment)])
        output = tempfile.TemporaryFile()  # noqa: SIM115 - closed once the command was waited for
        socket.send_fds(self._channel, [request.encode()], [output.fileno()])
        self._last = Command(self._channel, output)
        return self._last

    def _end(self) -> None:
        self._channel.close()
        self._process.wait(60)


def _read_early(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if not name.startswith(READ_LATER)}


def _serve(channel: socket.socket) -> None:
    """Fork a process for each request; returns in each of them once it is to run the command."""
    while True:
        request, outputs, _, _ = socket.recv_fds(channel, 2**20, 1)
        if not request:
            sys.exit()
        kill_after, *command = json.loads(request)
        child = os.fork()
        if child == 0:
            channel.close()
            _become(outputs[0], *command)
            return
        os.close(outputs[0])
        channel.send(str(child).encode())
        if kill_after is not None:
            _kill_after(child, kill_after)
        _, status = os.waitpid(child, 0)
        channel.send(str(os.waitstatus_to_exitcode(status)).encode())


def _kill_after(child: int, seconds: float) -> None:
    """Kill the process unless it ends before; it is not waited for, so its id is still its own."""
    handle = os.pidfd_open(child)
    ended, _, _ = select.select([handle], [], [], seconds)
    if not ended:
        os.kill(child, signal.SIGKILL)
    os.close(handle)


def _become(output: int, arguments: list[str], folder: str, environment: dict[str, str]) -> None:
    os.setsid()
    for stream in (1, 2):
        os.dup2(output, stream)
    os.close(output)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[0] = folder
    sys.argv[1:] = arguments


def main() -> None:
    """Import, wait for requests, and be the command in each process forked for one; or, after ``-c``, the program that
    is the next argument."""
    channel = socket.socket(fileno=int(sys.argv[1]))
    channel.set_inheritable(False)
    spare_imports()
    for module in IMPORTED:
        importlib.import_module(module)
    gc.freeze()
    _serve(channel)
    if sys.argv[1:2] == ["-c"]:
        del sys.argv[0]
        code = sys.argv.pop(1)
        exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
    else:
        runpy.run_module(COMMAND, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
