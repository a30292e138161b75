"""What the commands share: where they write, how they end, and the options that several of them have."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer
from rich.console import Console

EXIT_FAILED = 1
EXIT_USAGE = 2

console = Console(soft_wrap=True)
errors = Console(stderr=True, soft_wrap=True)
tables = Console(soft_wrap=True, width=None if sys.stdout.isatty() else 240)
"""Wide where nobody looks at a screen: a pipe should get whole rows."""


def usage(message: str) -> typer.Exit:
    """Say what is wrong with the command line; raise what this returns."""
    errors.print(message, markup=False, highlight=False)
    return typer.Exit(EXIT_USAGE)


def failed(message: str) -> typer.Exit:
    """Say why the command could not do its work; raise what this returns."""
    errors.print(message, markup=False, highlight=False)
    return typer.Exit(EXIT_FAILED)


ConfigOption = Annotated[str, typer.Option("--config", "-c", help="A profile's name or a YAML file.")]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", "-d", help="Show what would run and why; change nothing.")
]
RunOption = Annotated[
    str | None, typer.Option("--run", help="Where the work runs: a place of env.toml. Ctrl-C ends it there.")
]
BatchOption = Annotated[
    str | None, typer.Option("--batch", help="Submit one job to a place of env.toml, and leave it there.")
]
StageOption = Annotated[
    bool, typer.Option("--stage", help="With --run or --batch: write the job, and submit nothing.")
]
Overrides = Annotated[list[str] | None, typer.Argument(help="Settings as key=value or stage.key=value.")]
DEFAULT_PROFILE = os.environ.get("RETUNE_PROFILE", "laptop")
