"""``retune models``: the model registry."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from rich.table import Table

from assets_pkg.cli.common import failed, plain, tables, usage
from assets_pkg.config.project import typed_name

models = typer.Typer(
    help="The model registry, models.yaml: list, show, add, check, download, path.", no_args_is_help=True
)

Name = Annotated[str, typer.Argument(help="A model's name in models.yaml.")]
POOLINGS = ("mean", "cls", "last")
BRIEF = ("name", "embeds", "dim", "GB", "commercial", "status")
"""What of a model's row fits into 80 columns."""

RootOption = Annotated[
    Path | None, typer.Option("--root", help="Folder of weights (default: embedding_models/).")
]


@models.command("list")
def list_all(
    root: RootOption = None,
    every: Annotated[
        bool, typer.Option("--long", "-l", help="Also hub id, licence, and where the weights are.")
    ] = False,
) -> None:
    """List the models: what they embed, their size, whether they may be used commercially and are here."""
    from resources.models.commands import list_models

    rows = list_models(_registry(), root)
    _show(rows if every else [{name: row[name] for name in BRIEF} for row in rows])
    if not every:
        tables.print(
            "retune models list --long: hub ids, licences, where they are, and why not", highlight=False
        )


@models.command()
def show(name: Name) -> None:
    """Show everything recorded about one model, with sources."""
    from resources.models.commands import show_model

    _show(show_model(_registry(), name))


@models.command()
def add(
    target: Annotated[str, typer.Argument(help="A model folder, or an id of the Hugging Face hub.")],
    name: Annotated[str | None, typer.Option("--name", help="Its name (default: the folder's).")] = None,
    pooling: Annotated[
        str | None, typer.Option("--pooling", help="mean, cls or last, of a folder that does not say it.")
    ] = None,
) -> None:
    """Write an entry for a text model of yours to models.yaml, if it passes the checks. Exit code 1 if not."""
    from resources.models.commands import add_model

    if pooling not in (None, *POOLINGS):
        raise usage(f"--pooling {pooling}: choose from {', '.join(POOLINGS)}")

    def confirm(plan: Any) -> None:
        tables.print(plan.describe(), markup=False, highlight=False)

    added = add_model(
        typed_name(target), name, cast("Any", pooling), confirm=confirm, token=os.environ.get("HF_TOKEN")
    )
    _show({"fact": fact, "value": str(value)} for fact, value in added.drafted.facts.items())
    _show_checks(added.checks)
    short = plain(added.drafted.name)
    if added.path is None:
        raise failed(f"{short} is not written: correct its folder, or describe it by hand in models.yaml")
    tables.print(f"{plain(added.path)} has {short} now: retune run base_model={short}", highlight=False)


@models.command()
def check(
    name: Name,
    root: RootOption = None,
    load: Annotated[bool, typer.Option(help="Load the weights and check the model's output.")] = True,
) -> None:
    """Check that the weights are complete and the model behaves as the registry says. Exit code 1 if not."""
    from resources.models.commands import check_model

    checked = check_model(_registry(), name, root, load=load)
    tables.print(f"{plain(checked.name)}: {plain(checked.where)}, digest {checked.digest}", highlight=False)
    for problem in checked.problems:
        tables.print(f"[red]problem[/] {plain(problem)}", highlight=False)
    _show_checks(checked.checks)
    raise typer.Exit(0 if checked.passed else 1)


def _show_checks(checks: Iterable[Any]) -> None:
    for made in checks:
        mark = {True: "[green]ok[/]", False: "[red]wrong[/]", None: "[cyan]not checked[/]"}[made.passed]
        tables.print(f"{mark} {plain(made.name)}: {plain(made.detail)}", highlight=False)


@models.command()
def download(
    name: Name,
    root: RootOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", "-d", help="Show size, free space and licence only.")
    ] = False,
) -> None:
    """Download a model's weights from the Hugging Face hub, after showing size, free space and licence."""
    from resources.models.commands import download_model, plan_model

    token = os.environ.get("HF_TOKEN")
    plan = plan_model(_registry(), name, root, token)
    tables.print(plan.describe(), markup=False, highlight=False)
    if not dry_run:
        tables.print(f"digest {download_model(plan, token=token)}")


@models.command()
def path(name: Name, root: RootOption = None) -> None:
    """Print the folder of a model's weights, for scripts."""
    from resources.models.commands import path_of

    sys.stdout.write(f"{path_of(_registry(), name, root)}\n")


def _registry() -> Any:
    from resources.models.registry import load_registry

    return load_registry()


def _show(rows: Iterable[Mapping[str, str]]) -> None:
    listed = list(rows)
    table = Table(box=None, pad_edge=False)
    for column in listed[0] if listed else ():
        table.add_column(plain(column), no_wrap=column in ("name", "status"), overflow="fold")
    for row in listed:
        table.add_row(*map(plain, row.values()))
    tables.print(table, soft_wrap=False)
