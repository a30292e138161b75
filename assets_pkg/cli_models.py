"""``retune models ...`` and ``retune serve``: the registry of models, and any of them behind a server."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from rich.console import Console
from rich.table import Table

from assets_pkg.cli_options import DEFAULT_PROFILE, ConfigOption
from assets_pkg.profile import load_profile

models = typer.Typer(help="The registry of models: models.yaml.", no_args_is_help=True)
console = Console(soft_wrap=True, width=None if sys.stdout.isatty() else 240)
errors = Console(stderr=True, soft_wrap=True)

Name = Annotated[str, typer.Argument(help="A model's name in models.yaml.")]
RootOption = Annotated[
    Path | None, typer.Option("--root", help="Folder of weights (default: embedding_models/).")
]
T = TypeVar("T")
EXPORT_LINK = "stage4_export/onnx"


@models.command("list")
def list_all(root: RootOption = None) -> None:
    """Every model: what it embeds, size, licence, and where its weights are."""
    from resources.models.commands import list_models

    _show(_or_fail(lambda: list_models(_registry(), root)))


@models.command()
def show(name: Name) -> None:
    """Every fact of one model, with its source."""
    from resources.models.commands import show_model

    _show(_or_fail(lambda: show_model(_registry(), name)))


@models.command()
def check(
    name: Name,
    root: RootOption = None,
    load: Annotated[bool, typer.Option(help="Load the weights and check what they compute.")] = True,
) -> None:
    """Are the weights whole, and does the model do what the registry says? Exit code 1 if not."""
    from resources.models.commands import check_model

    checked = _or_fail(lambda: check_model(_registry(), name, root, load=load))
    console.print(f"{checked.name}: {checked.where}, digest {checked.digest}", highlight=False)
    for problem in checked.problems:
        console.print(f"[red]problem[/] {problem}", highlight=False)
    for made in checked.checks:
        mark = {True: "[green]ok[/]", False: "[red]wrong[/]", None: "[cyan]not checked[/]"}[made.passed]
        console.print(f"{mark} {made.name}: {made.detail}", highlight=False)
    raise typer.Exit(0 if checked.passed else 1)


@models.command()
def download(
    name: Name,
    root: RootOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", "-d", help="Show size, room and licence only.")
    ] = False,
) -> None:
    """Fetch a model's weights from the Hugging Face hub; size, free room and licence are shown first."""
    from resources.models.commands import download_model, plan_model

    token = os.environ.get("HF_TOKEN")
    plan = _or_fail(lambda: plan_model(_registry(), name, root, token))
    console.print(plan.describe(), markup=False, highlight=False)
    if not dry_run:
        console.print(f"digest {_or_fail(lambda: download_model(plan, token=token))}")


@models.command()
def path(name: Name, root: RootOption = None) -> None:
    """The folder of a model's weights, for scripts."""
    from resources.models.commands import path_of

    sys.stdout.write(f"{_or_fail(lambda: path_of(_registry(), name, root))}\n")


def serve(
    model: Annotated[
        str | None, typer.Option("--model", help="A model of models.yaml; else the export.")
    ] = None,
    folder: Annotated[
        Path | None, typer.Option("--folder", help="An exported folder, or a checkpoint (then under torch).")
    ] = None,
    host: Annotated[str, typer.Option("--host")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", "-p", min=1, max=65535)] = 8003,
    config: ConfigOption = DEFAULT_PROFILE,
) -> None:
    """Serve the current export, a folder, or any registered model (text and images), in the foreground."""
    if model is not None:
        from assets_pkg.provider.serve import serve_model

        _or_fail(lambda: serve_model(model, host, port))
        return
    if folder is None:
        folder = _or_fail(lambda: _exported_model(config))
    command = [sys.executable, "-m", "assets_pkg.nim", "--model-dir", str(folder)]
    os.execv(sys.executable, [*command, "--host", host, "--port", str(port)])


def _exported_model(config: str) -> Path:
    from storage.opening import open_store

    store = open_store(load_profile(config).artifact_root)
    # Where nothing is exported yet, the server says so of the folder's usual name.
    return store.resolve(EXPORT_LINK) or store.root / EXPORT_LINK


def _registry() -> Any:
    from resources.models.registry import load_registry

    return load_registry()


def _or_fail(work: Callable[[], T]) -> T:
    """The result of ``work``; an error that Retune foresees ends the command with its message."""
    try:
        return work()
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in ("assets_pkg", "resources", "storage"):
            raise
        errors.print(str(error), markup=False, highlight=False)
        raise typer.Exit(1) from error


def _show(rows: Iterable[Mapping[str, str]]) -> None:
    listed = list(rows)
    table = Table(box=None, pad_edge=False)
    for column in listed[0] if listed else ():
        table.add_column(column, no_wrap=column in ("name", "status"), overflow="fold")
    for row in listed:
        table.add_row(*(str(value) for value in row.values()))
    console.print(table, soft_wrap=False)
