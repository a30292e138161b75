"""``retune models``: the model registry."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from assets_pkg.cli.common import plain, tables

models = typer.Typer(
    help="The model registry, models.yaml: list, show, check, download, path.", no_args_is_help=True
)

Name = Annotated[str, typer.Argument(help="A model's name in models.yaml.")]
RootOption = Annotated[
    Path | None, typer.Option("--root", help="Folder of weights (default: embedding_models/).")
]


@models.command("list")
def list_all(root: RootOption = None) -> None:
    """List the models: modalities, size, licence, and where the weights are."""
    from resources.models.commands import list_models

    _show(list_models(_registry(), root))


@models.command()
def show(name: Name) -> None:
    """Show everything recorded about one model, with sources."""
    from resources.models.commands import show_model

    _show(show_model(_registry(), name))


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
    for made in checked.checks:
        mark = {True: "[green]ok[/]", False: "[red]wrong[/]", None: "[cyan]not checked[/]"}[made.passed]
        tables.print(f"{mark} {plain(made.name)}: {plain(made.detail)}", highlight=False)
    raise typer.Exit(0 if checked.passed else 1)


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
