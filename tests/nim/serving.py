"""Real server processes for the tests."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import httpx2

ROOT = Path(__file__).parents[2]
MODULE = "assets_pkg.nim"


@dataclass
class Server:
    """A server process that is listening."""

    process: subprocess.Popen[str]
    url: str

    @property
    def client(self) -> httpx2.Client:
        return httpx2.Client(base_url=self.url, timeout=60, verify=False)  # reads no certificates

    def embed(self, **body: Any) -> httpx2.Response:
        with self.client as client:
            return client.post("/v1/embeddings", json=body)

    def metric(self, name: str) -> float:
        """The value of one line of /v1/metrics, by its whole name."""
        with self.client as client:
            lines = client.get("/v1/metrics").text.splitlines()
        return next((float(line.split()[-1]) for line in lines if line.split()[0] == name), 0.0)


def command(folder: Path, *arguments: str, module: str = MODULE) -> list[str]:
    return [sys.executable, "-m", module, "--model-dir", str(folder), *arguments]


def environment(**variables: str) -> dict[str, str]:
    """This process's environment without settings of the server, and ``variables``.

    Without a line for each request: the log is a pipe that tests leave unread.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("NIM_", "RETUNE_"))}
    return {**kept, "PYTHONPATH": str(ROOT), "RETUNE_ACCESS_LOG": "0", **variables}


@contextmanager
def serving(folder: Path, *arguments: str, module: str = MODULE, **variables: str) -> Generator[Server]:
    """Run a server on a free port (or on that of ``--port``) until the block ends."""
    if "--port" not in arguments:
        arguments = (*arguments, "--port", "0")
    process = subprocess.Popen(
        command(folder, *arguments, module=module),
        env=environment(**variables),
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    try:
        yield Server(process, _await_url(cast(IO[str], process.stderr)))
    finally:
        process.kill()
        process.communicate()


def _await_url(log: IO[str]) -> str:
    lines: list[str] = []
    for line in log:
        lines.append(line)
        if found := re.search(r'listening on (https?://[^\s"]+)', line):
            return found[1]
    raise AssertionError("the server did not start:\n" + "".join(lines))
