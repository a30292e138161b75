"""``retune run``, and a command for each stage and each benchmark."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from assets_pkg.cli.common import (
    BatchOption,
    ConfigOption,
    DryRunOption,
    Overrides,
    RunOption,
    StageOption,
    console,
    load_settings,
    plain,
    usage,
)
from assets_pkg.cli.jobs import JobOptions
from assets_pkg.cli.running import run_or_show
from assets_pkg.cli.settings_table import command_with_settings
from assets_pkg.config.stages import BENCHMARKS, STAGES, assets_between

if TYPE_CHECKING:
    from assets_pkg.config.profile import Profile


def run(
    config: ConfigOption = "",
    first: Annotated[
        str, typer.Option("--from", help="First stage.", autocompletion=lambda: list(STAGES))
    ] = "sdg",
    last: Annotated[
        str, typer.Option("--to", help="Last stage.", autocompletion=lambda: list(STAGES))
    ] = "eval",
    dry_run: DryRunOption = False,
    run_on: RunOption = None,
    batch: BatchOption = None,
    stage: StageOption = False,
    force: Annotated[
        list[str] | None,
        typer.Option(
            help="Also make anew what is up to date of this stage; can be given several times.",
            metavar="STAGE",
            autocompletion=lambda: list(STAGES),
        ),
    ] = None,
    overrides: Overrides = None,
) -> None:
    """Run the missing and stale assets of the stages from --from to --to."""
    options = JobOptions(run_on, batch, stage)
    profile = load_settings(config, options.overrides(overrides))
    assets = assets_between(first, last, profile.stages())
    forced = [asset for each in force or () for asset in assets_between(each, each, profile.stages())]
    if outside := [asset for asset in forced if asset not in assets]:
        raise usage(
            f"--force: {', '.join(outside)} would not run: set --from and --to so that the stage is part of it"
        )
    run_or_show(profile, assets, dry_run, options, forced)


SECTIONS: dict[str, tuple[str, ...]] = {
    "sdg": ("corpus", "passages", "model", "sdg"),
    "eval": ("eval", "gate"),
    "reindex": ("reindex", "search"),
}
"""The sections of the profile whose settings a stage's ``--help`` lists, where they are more than its own."""


def add_stages(app: typer.Typer) -> None:
    """Add to ``app`` a command for each stage except ``sdg``, see below."""
    for stage in ("prep", "finetune", "eval", "export", "reindex", "eval_nim"):
        section = "eval" if stage == "eval_nim" else stage
        help_text = f"Run the stage {stage}: {', '.join(STAGES[stage])}."
        _add(app, stage, section, partial(_assets_of, stage), help_text)


def add_benchmarks(app: typer.Typer) -> None:
    """Add to ``app`` a command for each benchmark."""
    judge = "Score captions against references with every available judge, and rank the captioners."
    _add(app, "judge", "judges", lambda _: list(BENCHMARKS["judges"]), judge, _check_captions)
    image_text = "Measure how well models match images and texts."
    _add(app, "image-text", "image_text", lambda _: list(BENCHMARKS["image_text"]), image_text, _check_pairs)


def _assets_of(stage: str, profile: Profile) -> list[str]:
    """What the command of a stage makes with these settings."""
    assets = profile.stages()[stage]
    if stage == "eval" and profile.eval.eval_nim:
        assets += STAGES["eval_nim"]
    if not assets:
        raise usage("nothing would be measured: set eval_base, eval_finetuned or eval_nim to true")
    return list(assets)


def _add(
    app: typer.Typer,
    name: str,
    section: str,
    assets: Callable[[Profile], list[str]],
    help_text: str,
    check: Callable[[Profile], object] | None = None,
) -> None:
    def command(
        config: ConfigOption = "",
        dry_run: DryRunOption = False,
        run_on: RunOption = None,
        batch: BatchOption = None,
        stage: StageOption = False,
        overrides: Overrides = None,
    ) -> None:
        options = JobOptions(run_on, batch, stage)
        profile = load_settings(config, options.overrides(overrides), section=section)
        if (
            check is not None and not options.detached
        ):  # a job's input files may exist on its compute target only
            check(profile)
        run_or_show(profile, assets(profile), dry_run, options)

    app.command(name, help=help_text, cls=command_with_settings(SECTIONS.get(section, (section,))))(command)


def sdg(
    config: ConfigOption = "",
    dry_run: DryRunOption = False,
    run_on: RunOption = None,
    batch: BatchOption = None,
    stage: StageOption = False,
    overrides: Overrides = None,
) -> None:
    """Run the stage sdg: documents to question-passage pairs. preview=true prints a few and publishes nothing."""
    options = JobOptions(run_on, batch, stage)
    profile = load_settings(config, options.overrides(overrides), section="sdg")
    if not profile.sdg.preview or dry_run:
        run_or_show(profile, list(STAGES["sdg"]), dry_run, options)
        return
    run_or_show(profile, [asset for asset in STAGES["sdg"] if asset != "synthetic_qa"], dry_run=False)
    _preview(profile)


def _check_captions(profile: Profile) -> None:
    from assets_pkg.judges.pipeline import load_captions, load_published
    from resources.models.registry import load_registry

    load_captions(profile.judges)
    load_published(profile.judges, load_registry())


def _check_pairs(profile: Profile) -> None:
    from assets_pkg.image_text.captions import check_captioner
    from assets_pkg.image_text.pairs import check_source

    check_source(profile.image_text.pairs)
    check_captioner(profile.image_text.captioner, profile.image_text.pairs)


def _preview(profile: Profile) -> None:
    from assets_pkg.orchestration.instance import open_instance
    from assets_pkg.orchestration.resources import build_resources
    from assets_pkg.orchestration.upstream import UpstreamArtifacts
    from assets_pkg.sdg.generators import question_encoder
    from assets_pkg.sdg.llm import preview
    from storage.artifacts import Checkpoint, Corpus, Passages

    if profile.sdg.generator != "llm":
        raise usage("preview=true shows pairs of a chat model: set generator=llm")
    resources = build_resources(profile)
    with open_instance() as instance:
        inputs = UpstreamArtifacts(instance, resources.store)
        corpus, passages = inputs.input(Corpus, "raw_corpus"), inputs.input(Passages, "passages")
        base = inputs.input(Checkpoint, "base_model")
    store, accelerator = resources.store.get(), resources.accelerator.get
    with question_encoder(profile.sdg, store, accelerator, lambda: resources.encoders.open(base)) as encoder:
        seen = preview(corpus, passages, profile.sdg, resources.chat_model.get(), encoder)
    for record in seen.records:
        console.print(f"[bold]{plain(', '.join(record.file_name), one_line=True)}[/]", highlight=False)
        scored = zip(record.deduplicated_qa_pairs, record.qa_evaluations.evaluations, strict=True)
        for pair, evaluation in scored:
            console.print(
                f"  {evaluation.overall.score:4.1f}  {pair.question}", markup=False, highlight=False
            )
            console.print(f"        {pair.answer}", markup=False, highlight=False, style="dim")
    console.print(f"{len(seen.rejected)} pairs rejected, {seen.usage.requests} calls; nothing was published")
