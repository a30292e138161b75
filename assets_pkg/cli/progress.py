"""The plan of a run, its progress, and the history of promotions, as the terminal shows them."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Table

from assets_pkg.cli.common import Terminal, plain
from assets_pkg.orchestration.plan import Plan
from assets_pkg.orchestration.run_observer import set_run_observer
from storage.progress import Rate, duration, shown_figures

LINE_EVERY_SECONDS = 10.0
STATE_STYLE = {"missing": "yellow", "stale": "yellow", "follows": "cyan", "fresh": "green"}


def show_plan(console: Console, plan: Plan) -> None:
    """Print a table of the assets, each with its state and why it is in it."""
    table = Table(title=None, box=None, pad_edge=False)
    for column in ("asset", "state", "why"):
        table.add_column(column, overflow="fold")
    for asset in plan.assets:
        style = STATE_STYLE[asset.state]
        table.add_row(asset.name, f"[{style}]{asset.state}[/]", plain("; ".join(asset.reasons)))
    console.print(table)
    if plan.to_run:
        console.print(f"{len(plan.to_run)} of {len(plan.assets)} would run")
    else:
        console.print("nothing is stale: nothing to run")


def show_history(console: Console, rows: Sequence[Mapping[str, str]]) -> None:
    """Print a table of promotions, newest first. Reasons are folded; digests are not, so that they can be copied."""
    table = Table(box=None, pad_edge=False)
    for column in rows[0]:
        table.add_column(column, overflow="fold", no_wrap=column != "decision")
    for row in rows:
        table.add_row(*map(plain, row.values()))
    console.print(table)


@contextmanager
def live_display(console: Console, steps: int) -> Iterator[None]:
    """Show the steps of a run while it runs: progress bars in a terminal, lines in a pipe or file."""
    with _never_captured(console) as shown:
        observer = _Bars(shown, steps) if shown.is_terminal else _Lines(shown, steps)
        set_run_observer(observer)
        with observer.bars:
            yield


@contextmanager
def _never_captured(console: Console) -> Iterator[Console]:
    """A console on a descriptor of its own: while a step runs, Dagster sends the process's output to the step's log."""
    try:
        descriptor = os.dup(console.file.fileno())
    except io.UnsupportedOperation:  # no file: a caller's buffer
        yield console
        return
    with os.fdopen(descriptor, "w", encoding="utf-8", errors="replace") as stream:
        yield Terminal(file=stream)


class _Lines:
    """A line at the start and the end of a step, and at most every `LINE_EVERY_SECONDS` of its progress."""

    def __init__(self, console: Console, steps: int):
        self.console = console
        self.steps = steps
        self.count = 0
        self.started_at: dict[str, float] = {}
        self.rate = Rate()
        self.last = time.monotonic()
        self.bars = Progress(console=console, disable=True)

    def started(self, step: str) -> None:
        self.count += 1
        self.started_at[step] = time.monotonic()
        self.console.print(f"[bold]{step}[/] [dim]({self.count} of {self.steps})[/]", highlight=False)

    def finished(self, step: str) -> None:
        took = duration(time.monotonic() - self.started_at[step])
        self.console.print(f"  [green]done[/] {step} ({took})", highlight=False)

    def note(self, text: str) -> None:
        self.console.print(f"  {plain(text)}", highlight=False)

    def progress(self, step: str, done: int, total: int, unit: str, **figures: float) -> None:
        self.rate.add((step, unit), done, total, figures.get("cached", 0))
        now = time.monotonic()
        if now - self.last >= LINE_EVERY_SECONDS:
            self.last = now
            shown = ", ".join(
                filter(None, [f"{done:,} of {total:,} {unit}", str(self.rate), shown_figures(figures)])
            )
            self.console.print(f"  {shown}", highlight=False)


class _Bars(_Lines):
    """A live progress bar below the lines."""

    def __init__(self, console: Console, steps: int):
        super().__init__(console, steps)
        self.bar_width = max(10, min(40, console.width - 80))
        self.bars = Progress(
            TextColumn("  {task.description}"),
            BarColumn(bar_width=self.bar_width),
            TextColumn("{task.fields[shown]}"),
            console=console,
            transient=True,
        )
        self.bar: TaskID | None = None
        self.unit = ""

    def finished(self, step: str) -> None:
        self._drop()
        super().finished(step)

    def progress(self, step: str, done: int, total: int, unit: str, **figures: float) -> None:
        if self.bar is None or unit != self.unit:
            self._drop()
            self.unit = unit
            self.bar = self.bars.add_task(step, total=total, shown="")
        self.rate.add((step, unit), done, total, figures.get("cached", 0))
        self.bars.update(
            self.bar, completed=done, total=total, shown=self._fitting(step, done, total, figures)
        )

    def _fitting(self, step: str, done: int, total: int, figures: dict[str, float]) -> str:
        """What stands beside the bar: as many figures as there is room for."""
        parts = [f"{done:,}/{total:,} {self.unit}", str(self.rate)]
        shown = ", ".join(filter(None, parts))
        for name, value in figures.items():
            longer = f"{shown}, {shown_figures({name: value})}"
            if len(step) + self.bar_width + len(longer) + len("      ") > self.console.width:
                break
            shown = longer
        return shown

    def _drop(self) -> None:
        if self.bar is not None:
            self.bars.remove_task(self.bar)
            self.bar = None
