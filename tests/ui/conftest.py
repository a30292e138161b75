"""A running ``retune ui`` of a finished small project, for the tests that ask it and those that look at it."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.command.conftest import Workplace, copy_workplace
from tests.loopback import free_port

PATIENCE_SECONDS = 180
STATUS = "{ assetNodes { assetKey { path } staleStatus } }"
RUNS = '{ runsOrError(filter: {pipelineName: "reindex"}) { ... on Runs { results { runId status } } } }'


class Ui:
    """A running ``retune ui``."""

    def __init__(self, workplace: Workplace, port: int):
        self.workplace = workplace
        self.url = f"http://127.0.0.1:{port}"
        self.process = subprocess.Popen(
            [sys.executable, "-m", "assets_pkg.cli", "ui", "--port", str(port)],
            cwd=workplace.home,
            env=workplace.environment,
            stdout=(workplace.home / "ui.log").open("wb"),
            stderr=subprocess.STDOUT,
            # As a script's `retune ui &` starts it; it must be stoppable all the same.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
        )

    def ask(self, query: str) -> Any:
        return httpx2.post(f"{self.url}/graphql", json={"query": query}, timeout=60).json()["data"]

    def statuses(self) -> dict[str, str]:
        nodes = self.ask(STATUS)["assetNodes"]
        return {"/".join(node["assetKey"]["path"]): node["staleStatus"] for node in nodes}

    def reindex_runs(self) -> list[str]:
        return [run["status"] for run in self.ask(RUNS)["runsOrError"]["results"]]

    def promote_another(self) -> None:
        """Point at the other of the two models, by hand."""
        promoted = self.workplace.link("promoted_model").split("/")[-1]
        folders = (self.workplace.home / "output/artifacts").glob("*/*/model/consolidated")
        other = ({folder.parents[1].name for folder in folders} - {promoted}).pop()
        code, output = self.workplace.retune("promote", other, "--because", "test")
        assert code == 0, output

    def wait(self, what: str, condition: Callable[[], bool]) -> None:
        """Poll until ``condition`` holds; says what did not come, with the log, when it does not."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            try:
                if condition():
                    return
            except (httpx2.HTTPError, TypeError, KeyError):
                pass  # still starting
            time.sleep(1)
        log = (self.workplace.home / "ui.log").read_text("utf-8", "replace")
        raise AssertionError(f"waited in vain for: {what}\n{log[-4000:]}")

    def stop(self) -> None:
        self.process.terminate()
        assert self.process.wait(60) == 0


@pytest.fixture(scope="module")
def ui(tmp_path_factory: pytest.TempPathFactory, indexed_home: Path) -> Iterator[Ui]:
    """Measured, promoted and indexed; its sensors are on."""
    workplace = copy_workplace(indexed_home, tmp_path_factory.mktemp("ui") / "project")
    running = Ui(workplace, free_port())
    index = ("corpus_embeddings", "vector_index")
    try:
        running.wait("a synced index", lambda: {running.statuses()[name] for name in index} == {"FRESH"})
        assert running.reindex_runs() == []
        yield running
    finally:
        running.stop()
