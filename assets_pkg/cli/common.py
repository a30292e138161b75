"""What several commands share: consoles, exit codes, and options."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import IO, TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.text import Text

from assets_pkg.config.project import profile_name, typed_override
from storage.printable import visible

if TYPE_CHECKING:
    from assets_pkg.config.profile import Profile

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130
PIPE_WIDTH = 240

WORD_JOINER = "\u2060"
"""No width and no effect."""


class Terminal(Console):
    """A console that shows control characters instead of sending them, and no emoji for ``:names:``."""

    def __init__(self, *, stderr: bool = False, width: int | None = None, file: IO[str] | None = None):
        super().__init__(stderr=stderr, width=width, file=file, soft_wrap=True, emoji=False)

    def render_str(self, text: str, **options: Any) -> Text:
        """Every string that is printed passes here, those in tables too."""
        return super().render_str(visible(text), **options)


console = Terminal()
errors = Terminal(stderr=True)
tables = Terminal(width=None if sys.stdout.isatty() else PIPE_WIDTH)
"""As wide as the terminal; `PIPE_WIDTH` columns in a pipe or file, so that rows are not folded at 80."""

ConfigOption = Annotated[
    str,
    typer.Option(
        "--config",
        "-c",
        help="A profile's name or a YAML file.",
        show_default="retune.yaml of the project, else laptop",
    ),
]
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


def load_settings(
    config: str, overrides: Sequence[str] | None = None, *, section: str | None = None
) -> Profile:
    """The profile that a command works with; see :func:`~assets_pkg.config.profile_files.load_profile`."""
    from assets_pkg.config.profile_files import load_profile

    given = [typed_override(text) for text in overrides or ()]
    return load_profile(profile_name(config), given, section=section)


def plain(text: object, *, one_line: bool = False) -> str:
    """A text as part of a line of markup, for every text that is not Retune's own: names, paths, documents, messages.

    Args:
        one_line: line breaks and tabs are shown as escapes too, so that a name cannot look like several lines.
    """
    shown = visible(str(text))
    if one_line:
        shown = shown.replace("\r", "\\r").replace("\n", "\\n").replace("\t", "\\t")
    if shown.endswith("\\"):
        shown += WORD_JOINER  # else it would escape a tag that follows
    return escape(shown)


def usage(message: str) -> typer.Exit:
    """Print an error of the command line; returns the exit to raise."""
    errors.print(message, markup=False, highlight=False)
    return typer.Exit(EXIT_USAGE)


def failed(message: str) -> typer.Exit:
    """Print why the command failed; returns the exit to raise."""
    errors.print(message, markup=False, highlight=False)
    return typer.Exit(EXIT_FAILED)
