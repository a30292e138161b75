"""The UI and its daemon, for real: a promotion turns the index Unsynced, and the sensor clears it."""

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

from tests.command.conftest import Workplace, free_port, make_workplace

PATIENCE_SECONDS = 180
STATUS = "{ assetNodes { assetKey { path } staleStatus } }"
RUNS = '{ runsOrError(filter: {pipelineName: "reindex"}) { ... on Runs { results { runId status } } } }'


class Ui:
    """A running ``retune ui``."""

    def __init__(self, place: Workplace, port: int):
        self.place = place
        self.url = f"http://127.0.0.1:{port}/graphql"
        self.process = subprocess.Popen(
            [sys.executable, "-m", "assets_pkg.cli", "ui", "--port", str(port)],
            cwd=place.home,
            env=place.environment,
            stdout=(place.home / "ui.log").open("wb"),
            stderr=subprocess.STDOUT,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )

    def ask(self, query: str) -> Any:
        return httpx2.post(self.url, json={"query": query}, timeout=60).json()["data"]

    def statuses(self) -> dict[str, str]:
        nodes = self.ask(STATUS)["assetNodes"]
        return {"/".join(node["assetKey"]["path"]): node["staleStatus"] for node in nodes}

    def reindex_runs(self) -> list[str]:
        return [run["status"] for run in self.ask(RUNS)["runsOrError"]["results"]]

    def wait(self, what: str, condition: Callable[[], bool]) -> None:
        """Poll until ``condition`` holds; says what did not come, with the log, when it does not."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            try:
                if condition():
                    return
            except (httpx2.HTTPError, TypeError, KeyError):
                pass  # still starting
            time.sleep(0.5)
        log = (self.place.home / "ui.log").read_text("utf-8", "replace")
        raise AssertionError(f"waited in vain for: {what}\n{log[-4000:]}")

    def stop(self) -> None:
        self.process.send_signal(signal.SIGINT)
        self.process.wait(60)


@pytest.fixture
def ui(tmp_path: Path, tiny_model: Path) -> Iterator[Ui]:
    place = make_workplace(tmp_path / "place", tiny_model)
    code, output = place.retune("run", "--to", "eval")
    assert code == 0, output
    code, output = place.retune("reindex")
    assert code == 0, output
    running = Ui(place, free_port())
    yield running
    running.stop()


def test_a_promotion_is_unsynced_in_the_ui_and_the_sensor_reindexes_once(ui: Ui) -> None:
    index = ("corpus_embeddings", "vector_index")
    ui.wait("a synced index", lambda: {ui.statuses()[name] for name in index} == {"FRESH"})
    assert ui.reindex_runs() == []

    other = _another_model(ui.place)
    code, output = ui.place.retune("promote", other, "--because", "test")
    assert code == 0, output
    seen: set[str] = set()

    def reindexed() -> bool:
        seen.update(ui.statuses()[name] for name in index)
        return ui.reindex_runs() == ["SUCCESS"]

    ui.wait("one re-index run", reindexed)
    assert "STALE" in seen
    ui.wait("a synced index again", lambda: {ui.statuses()[name] for name in index} == {"FRESH"})

    code, output = ui.place.retune("rollback")
    assert code == 0, output
    ui.wait("a second re-index run after the rollback", lambda: ui.reindex_runs() == ["SUCCESS", "SUCCESS"])
    ui.wait("a synced index at the end", lambda: {ui.statuses()[name] for name in index} == {"FRESH"})


def _another_model(place: Workplace) -> str:
    promoted = place.link("promoted_model").split("/")[-1]
    folders = (place.home / "output/artifacts").glob("*/*/model/consolidated")
    versions = {folder.parents[1].name for folder in folders} - {promoted}
    return versions.pop()
