"""``retune eval-set``: show, freeze, import, search and release the eval set."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from assets_pkg.cli.common import ConfigOption, Overrides, console, failed, load_settings, plain
from assets_pkg.config.project import typed_path

if TYPE_CHECKING:
    from assets_pkg.prep.eval_set import EvalSetCommands

eval_set = typer.Typer(help="The eval set: show, freeze, import, search, release.", no_args_is_help=True)


@eval_set.command()
def show(config: ConfigOption = "", overrides: Overrides = None) -> None:
    """Show which eval set is current, and whether it is frozen."""
    for line in _commands(config, overrides).describe():
        console.print(plain(line), highlight=False)


@eval_set.command()
def freeze(config: ConfigOption = "", overrides: Overrides = None) -> None:
    """Keep the current eval set: new pairs go to training only, and those about its documents are left out."""
    console.print(plain(_commands(config, overrides).freeze()), highlight=False)


@eval_set.command("import")
def import_folder(
    path: Annotated[Path, typer.Argument(help="A BEIR folder.")],
    config: ConfigOption = "",
    overrides: Overrides = None,
) -> None:
    """Use a BEIR folder as the eval set, and freeze it."""
    console.print(plain(_commands(config, overrides).import_beir(typed_path(path))), highlight=False)


@eval_set.command()
def search(config: ConfigOption = "", overrides: Overrides = None) -> None:
    """Measure every search method with the promoted model on the eval set."""
    import dagster as dg

    from assets_pkg.orchestration.instance import open_instance
    from assets_pkg.orchestration.resources import build_resources
    from assets_pkg.orchestration.upstream import UpstreamArtifacts
    from assets_pkg.reindex.comparison import measure_methods
    from assets_pkg.reindex.search_method import CANDIDATES
    from storage.artifacts import Checkpoint, EvalSet

    resources = build_resources(load_settings(config, overrides))
    with open_instance() as instance:
        inputs = UpstreamArtifacts(instance, resources.store)
        try:
            questions, model = inputs.input(EvalSet, "eval_set"), inputs.input(Checkpoint, "promoted_model")
        except dg.Failure as error:
            raise failed(error.description or "") from error
    with resources.encoders.open(model) as encoder:
        for method, scores in measure_methods(questions, encoder, CANDIDATES).items():
            means = scores.means()
            figures = "  ".join(f"{name} {means[name]:.4f}" for name in ("NDCG@10", "Recall@10", "MRR@10"))
            console.print(f"{method!s:10} {figures}", highlight=False)


@eval_set.command()
def release(config: ConfigOption = "", overrides: Overrides = None) -> None:
    """Unfreeze the eval set: it is split from the pairs again."""
    console.print(plain(_commands(config, overrides).release()), highlight=False)


def _commands(config: str, overrides: list[str] | None) -> EvalSetCommands:
    from assets_pkg.prep.eval_set import EvalSetCommands

    return EvalSetCommands(load_settings(config, overrides).artifact_root)
