"""What a person sees of long work: rate and time left, in a terminal and in a file."""

from __future__ import annotations

import os
import pty
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from dagster._core.execution.compute_logs import redirect_to_file

from assets_pkg.cli.common import Terminal
from assets_pkg.cli.progress import live_display
from assets_pkg.orchestration.run_observer import run_observer, set_run_observer
from storage.progress import Rate, duration, shown_figures


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    return now


@pytest.fixture(autouse=True)
def observer_of_before() -> Iterator[None]:
    before = run_observer()
    yield
    set_run_observer(before)


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.7, "1:00 min"),
        (185, "3:05 min"),
        (7800, "2:10 h"),
    ],
)
def test_durations_are_written_in_the_unit_people_use(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown


def test_figures_have_no_exponents() -> None:
    assert (
        shown_figures({"loss": 2.37612, "cached": 23850.0, "share": 0.25})
        == "loss 2.376, cached 23,850, share 0.25"
    )


def test_the_time_left_is_that_of_what_must_be_computed(clock: list[float]) -> None:
    rate = Rate()
    rate.add(("embed",), 790, 1000, cached=790)
    clock[0] = 5  # the model is loaded
    rate.add(("embed",), 800, 1000, cached=790)
    assert str(rate) == ""
    clock[0] = 15
    rate.add(("embed",), 900, 1000, cached=790)
    assert str(rate) == "10/s, 10 s left"
    clock[0] = 25
    rate.add(("embed",), 1000, 1000, cached=840)
    assert str(rate) == "7.5/s"


def test_the_same_work_done_again_has_a_rate_of_its_own(clock: list[float]) -> None:
    """Training evaluates several models on the same validation passages, with other work in between."""
    rate = Rate()
    for start in (0, 100):
        for second in range(4):
            clock[0] = start + second
            rate.add(("validate",), 20 + 20 * second, 100)
            assert str(rate) == ("" if second < 2 else f"20/s, {(4 - second):.1f} s left")


def test_other_work_begins_anew(clock: list[float]) -> None:
    rate = Rate()
    rate.add(("embed",), 0, 100)
    rate.add(("embed",), 10, 100)
    clock[0] = 1
    rate.add(("embed",), 50, 100)
    assert str(rate) == "40/s, 1.2 s left"
    rate.add(("search",), 10, 100)
    assert str(rate) == ""


class Screen:
    """A pseudo-terminal, with the rows that a person would see."""

    def __init__(self, columns: int):
        self.columns = columns
        self.ours, theirs = pty.openpty()
        self.stream = os.fdopen(theirs, "w", encoding="utf-8")
        os.set_blocking(self.ours, False)

    def read(self) -> str:
        received = b""
        while True:
            try:
                received += os.read(self.ours, 65536)
            except BlockingIOError:
                return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", received.decode("utf-8"))

    def close(self) -> None:
        self.stream.close()
        os.close(self.ours)


@pytest.fixture(params=[80, 140])
def screen(request: pytest.FixtureRequest) -> Iterator[Screen]:
    opened = Screen(request.param)
    yield opened
    opened.close()


def test_bars_move_while_dagster_has_the_output(
    screen: Screen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dagster sends the output of a step to a file; the bar must reach the terminal at once, not when the step ends."""
    monkeypatch.setattr(sys, "stdout", screen.stream)
    console = Terminal(file=screen.stream, width=screen.columns)
    console._color_system = None
    with live_display(console, steps=2):
        observer = run_observer()
        with redirect_to_file(screen.stream, str(tmp_path / "step.log")):
            observer.started("mined_train_set")
            for done in (0, 4000, 8127):
                observer.progress("mined_train_set", done, 8127, "passages", cached=12.0)
                observer.bars.refresh()  # pyright: ignore[reportAttributeAccessIssue]
                shown = screen.read()
                assert f"{done:,}/8,127 passages" in shown
                assert max(map(len, re.split(r"[\r\n]+", shown))) <= screen.columns
            screen.stream.write("a library's own words\n")
            observer.finished("mined_train_set")
    assert "done mined_train_set" in screen.read()
    assert (tmp_path / "step.log").read_text("utf-8") == "a library's own words\n"


def test_a_file_gets_sparse_lines(tmp_path: Path, clock: list[float]) -> None:
    log = tmp_path / "log.txt"
    with log.open("w", encoding="utf-8") as stream, live_display(Terminal(file=stream), steps=1):
        observer = run_observer()
        observer.started("embed_and_index")
        for second in range(31):
            clock[0] = second
            observer.progress("embed_and_index", second * 100, 10_000, "texts", cached=0.0)
        observer.finished("embed_and_index")
    assert log.read_text("utf-8").splitlines() == [
        "embed_and_index (1 of 1)",
        "  1,000 of 10,000 texts, 100/s, 1:30 min left, cached 0",
        "  2,000 of 10,000 texts, 100/s, 1:20 min left, cached 0",
        "  3,000 of 10,000 texts, 100/s, 1:10 min left, cached 0",
        "  done embed_and_index (30 s)",
    ]
