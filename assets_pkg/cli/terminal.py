"""Where the commands write, and how a command ends when it cannot go on."""

from __future__ import annotations

import sys

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
