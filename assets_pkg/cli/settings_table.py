"""Settings as a table, for ``retune info`` and for the ``--help`` of a stage."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from typer.core import TyperCommand

from assets_pkg.cli.common import load_settings, plain, tables
from storage.errors import RetuneError

if TYPE_CHECKING:
    from assets_pkg.config.profile import Profile

LONGEST_VALUE = 60
"""Characters of a value; `retune info --json` has it in full."""


def print_settings(console: Console, profile: Profile, sections: Iterable[str]) -> None:
    """Print the settings of some sections: name, value (bold where it is not the recipe's default), and what it is."""
    from assets_pkg.config.describe import describe
    from assets_pkg.config.profile_files import load_profile

    defaults = {setting.key: setting.value for setting in describe(load_profile("default"))}
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column("setting", no_wrap=True, style="cyan")
    table.add_column("value", overflow="fold", max_width=36)
    table.add_column("what it is", overflow="fold")
    for section in sections:
        for setting in describe(profile, section):
            value = plain(_shortened(setting.shown), one_line=True)
            changed = setting.value != defaults[setting.key]
            table.add_row(setting.key, f"[bold]{value}[/]" if changed else value, plain(setting.line))
    console.print(table)


def _shortened(text: str) -> str:
    return text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 3]}..."


def command_with_settings(sections: Sequence[str]) -> type[TyperCommand]:
    """A command whose ``--help`` ends with the settings of these sections, as they are in this project."""

    class WithSettings(TyperCommand):
        def format_help(self, ctx: Any, formatter: Any) -> None:
            super().format_help(ctx, formatter)
            tables.print("Settings, with their values here (override them with key=value):", highlight=False)
            print_settings(tables, _profile(), sections)

    return WithSettings


def _profile() -> Profile:
    from assets_pkg.config.profile_files import load_profile

    try:
        return load_settings("")
    except RetuneError:  # help does not need a project that is whole
        return load_profile("laptop")
