"""What several commands share: consoles, exit codes, and options."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer
from rich.console import Console

EXIT_FAILED = 1
EXIT_USAGE = 2
PIPE_WIDTH = 240
DEFAULT_PROFILE = os.environ.get("RETUNE_PROFILE", "laptop")

console = Console(soft_wrap=True)
errors = Console(stderr=True, soft_wrap=True)
tables = Console(soft_wrap=True, width=None if sys.stdout.isatty() else PIPE_WIDTH)
"""As wide as the terminal; `PIPE_WIDTH` columns in a pipe or file, so that rows are not folded at 80."""

ConfigOption = Annotated[str, typer.Option("--config", "-c", help="A profile's name or a YAML file.")]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", "-d", help="Show what would be done and why; change nothing.")
]
RunOption = Annotated[
    str | None,
    typer.Option("--run", help="Run on this compute target of env.toml and wait; Ctrl-C cancels the job."),
]
BatchOption = Annotated[
    str | None,
    typer.Option("--batch", help="Submit one detached job to this compute target of env.toml, and return."),
]
StageOption = Annotated[
    bool, typer.Option("--stage", help="With --run or --batch: write the job's files, submit nothing.")
]
Overrides = Annotated[list[str] | None, typer.Argument(help="Settings as key=value or stage.key=value.")]


def usage(message: str) -> typer.Exit:
    """Print an error of the command line; returns the exit to raise."""
    errors.print(message, markup=False, highlight=False)
    return typer.Exit(EXIT_USAGE)


def failed(message: str) -> typer.Exit:
    """Print why the command failed; returns the exit to raise."""
    errors.print(message, markup=False, highlight=False)
    return typer.Exit(EXIT_FAILED)
