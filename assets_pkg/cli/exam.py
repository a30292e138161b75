"""``retune eval-set``: the exam, frozen, looked at, or the user's own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from assets_pkg.cli.options import DEFAULT_PROFILE, ConfigOption, Overrides
from assets_pkg.cli.terminal import console, failed
from assets_pkg.profile import load_profile

if TYPE_CHECKING:
    from assets_pkg.prep.exam_commands import ExamCommands

exam = typer.Typer(help="The exam: freeze it, look at it, bring your own.", no_args_is_help=True)


@exam.command()
def show(config: ConfigOption = DEFAULT_PROFILE) -> None:
    """Which exam is current, and whether it is frozen."""
    for line in _commands(config).describe():
        console.print(line, highlight=False)


@exam.command()
def freeze(config: ConfigOption = DEFAULT_PROFILE) -> None:
    """Keep the current exam from now on: new pairs only extend training, and its documents stay out of it."""
    console.print(_commands(config).freeze(), highlight=False)


@exam.command("import")
def take(
    path: Annotated[Path, typer.Argument(help="A BEIR folder.")], config: ConfigOption = DEFAULT_PROFILE
) -> None:
    """Take a BEIR folder as the exam, and freeze it."""
    console.print(_commands(config).take(path), highlight=False)


@exam.command()
def search(config: ConfigOption = DEFAULT_PROFILE, overrides: Overrides = None) -> None:
    """Does hybrid search help here? The exam by the promoted model's vectors, by words, and by both."""
    import dagster as dg

    from assets_pkg.door import Inputs
    from assets_pkg.equipment import equip
    from assets_pkg.instance import open_instance
    from assets_pkg.reindex.measure import measure_search
    from storage.artifacts import Checkpoint, EvalSet

    resources = equip(load_profile(config, overrides or []))
    with open_instance() as instance:
        inputs = Inputs(instance, resources.store)
        try:
            questions, model = inputs.input(EvalSet, "eval_set"), inputs.input(Checkpoint, "promoted_model")
        except dg.Failure as error:
            raise failed(error.description or "") from error
    with resources.encoders.open(model) as encoder:
        for kind, means in measure_search(questions, encoder).items():
            figures = "  ".join(f"{name} {means[name]:.4f}" for name in ("NDCG@10", "Recall@10", "MRR@10"))
            console.print(f"{kind:8} {figures}", highlight=False)


@exam.command()
def release(config: ConfigOption = DEFAULT_PROFILE) -> None:
    """Let the exam be split from the pairs again."""
    console.print(_commands(config).release(), highlight=False)


def _commands(config: str) -> ExamCommands:
    from assets_pkg.prep.exam_commands import ExamCommands

    return ExamCommands(load_profile(config).artifact_root)
