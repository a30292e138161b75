"""All commands of ``retune``, and how errors become exit codes.

Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted (Ctrl-C).
"""

from __future__ import annotations

import sys
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated

import typer

from assets_pkg.cli.common import console, errors, failed, plain, usage
from assets_pkg.cli.eval_set import eval_set
from assets_pkg.cli.gc import forget, gc
from assets_pkg.cli.jobs import jobs
from assets_pkg.cli.models import models
from assets_pkg.cli.project import doctor, info, init, ui
from assets_pkg.cli.promotion import promote, rollback
from assets_pkg.cli.search import search
from assets_pkg.cli.serving import deploy, serve
from assets_pkg.cli.settings_table import command_with_settings
from assets_pkg.cli.stages import SECTIONS, add_benchmarks, add_stages, run, sdg
from assets_pkg.config.env_file import EnvFileError, load_env_file
from assets_pkg.config.errors import ProfileError
from assets_pkg.config.project import enter_project
from assets_pkg.config.stages import StageError
from resources.http_client import bypass_proxies_on_this_machine
from resources.machine.imports import spare_imports
from storage.errors import RetuneError

DISTRIBUTIONS = ("retune-embed", "retune")
"""Under which an installation is known: its name, and that of earlier ones."""


def _show_version(wanted: bool) -> None:
    if wanted:
        console.print(f"retune {installed_version()}", highlight=False)
        raise typer.Exit


def installed_version() -> str:
    """The version of this installation; "unknown" of a source tree that was not installed."""
    for name in DISTRIBUTIONS:
        with suppress(PackageNotFoundError):
            return version(name)
    return "unknown"


app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
)


@app.callback()
def options(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Tune a text-embedding model to your own documents, and keep the search index in step with it."""


RECIPE_HELP = "The recipe's group of commands: `retune embed STAGE ...` is `retune STAGE ...`."
embed = typer.Typer(help=RECIPE_HELP, no_args_is_help=True)

for _command in (init, info, doctor, run):
    app.command()(_command)
embed.command()(info)
embed.command()(run)
for _group in (app, embed):
    _group.command(cls=command_with_settings(SECTIONS["sdg"]))(sdg)
    add_stages(_group)
    _group.command(cls=command_with_settings(["deploy"]))(deploy)
add_benchmarks(app)
for _command in (serve, promote, rollback, search, gc, forget, ui):
    app.command()(_command)
app.add_typer(embed, name="embed")
app.add_typer(eval_set, name="eval-set")
app.add_typer(models, name="models")
app.add_typer(jobs, name="jobs")


def main() -> None:
    """Entry point of ``retune``. An error that Retune raises itself is printed as its message, without traceback."""
    spare_imports()
    enter_project()
    try:
        load_env_file(Path.cwd())
    except EnvFileError as error:
        errors.print(f"[yellow]warning[/] {plain(error)}", highlight=False)
    bypass_proxies_on_this_machine()
    try:
        app()
    except (ProfileError, StageError) as error:
        sys.exit(usage(str(error)).exit_code)
    except Exception as error:
        if isinstance(error, RetuneError):
            sys.exit(failed(str(error)).exit_code)
        unusable = _history_unusable(error)
        if not unusable:
            raise
        sys.exit(failed(unusable).exit_code)


def _history_unusable(error: Exception) -> str:
    """The message for a history of runs on a full disk or closed to this user; empty for any other error."""
    from assets_pkg.orchestration.instance import explain_closed_history, history_folder
    from storage.disk import is_disk_full

    folder = history_folder()
    if not is_disk_full(error, folder):
        return explain_closed_history(error)
    return (
        f"disk full: no space for the history of runs in {folder}. Free some space or set DAGSTER_HOME to another "
        "disk, then run the same command: finished work is kept"
    )
