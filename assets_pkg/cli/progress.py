"""The plan of a run, its progress, and the history of promotions, as the terminal shows them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from assets_pkg.cli.common import plain
from assets_pkg.orchestration.plan import Plan
from assets_pkg.orchestration.run_observer import set_run_observer

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
    observer = _Bars(console, steps) if console.is_terminal else _Lines(console, steps)
    set_run_observer(observer)
    with observer.bars:
        yield


class _Lines:
    """A line at the start and the end of a step, and at most every `LINE_EVERY_SECONDS` of its progress."""

    def __init__(self, console: Console, steps: int):
        self.console = console
        self.steps = steps
        self.count = 0
        self.started_at: dict[str, float] = {}
        self.last = 0.0
        self.bars = Progress(console=console, disable=True)

    def started(self, step: str) -> None:
        self.count += 1
        self.started_at[step] = time.monotonic()
        self.console.print(f"[bold]{step}[/]", highlight=False)

    def finished(self, step: str) -> None:
        seconds = time.monotonic() - self.started_at[step]
        self.console.print(f"  [green]done[/] {step} ({seconds:.1f} s)", highlight=False)

    def note(self, text: str) -> None:
        self.console.print(f"  {plain(text)}", highlight=False)

    def progress(self, step: str, done: int, total: int, unit: str, **figures: float) -> None:
        now = time.monotonic()
        if now - self.last >= LINE_EVERY_SECONDS:
            self.last = now
            self.console.print(f"  {done:,} of {total:,} {unit}{_figures(figures)}", highlight=False)


class _Bars(_Lines):
    """A live progress bar below the lines."""

    def __init__(self, console: Console, steps: int):
        super().__init__(console, steps)
        self.bars = Progress(
            TextColumn("  {task.description}"),
            BarColumn(),
            TextColumn("{task.completed:,.0f}/{task.total:,.0f} {task.fields[unit]}{task.fields[figures]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
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
            self.bar = self.bars.add_task(step, total=total, unit=unit, figures="")
        self.bars.update(self.bar, completed=done, total=total, figures=_figures(figures))

    def _drop(self) -> None:
        if self.bar is not None:
            self.bars.remove_task(self.bar)
            self.bar = None


def _figures(figures: dict[str, float]) -> str:
    return "".join(f", {name} {value:.4g}" for name, value in figures.items())
