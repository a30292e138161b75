"""The ``retune`` command: the same assets as in the UI, run from a terminal.

Exit codes: 0 done, 1 failed, 2 wrong usage.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from assets_pkg.cli_jobs import HERE, Where, check_places, hand_over, jobs
from assets_pkg.cli_models import models, serve
from assets_pkg.cli_options import (
    DEFAULT_PROFILE,
    EXIT_FAILED,
    EXIT_USAGE,
    BatchOption,
    ConfigOption,
    DryRunOption,
    Overrides,
    RunOption,
    StageOption,
)
from assets_pkg.profile import Profile, ProfileError, load_profile, profile_names
from assets_pkg.stages import BENCHMARKS, STAGES, StageError, assets_between

if TYPE_CHECKING:
    import dagster as dg

    from assets_pkg.deploy.contract import RunningServer
    from assets_pkg.plan import Plan
    from assets_pkg.prep.exam_commands import ExamCommands

app = typer.Typer(
    help="Tune a text-embedding model to your own documents, and keep the search index in tune.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
)
app.add_typer(models, name="models")
app.add_typer(jobs, name="jobs")
app.command()(serve)
console = Console(soft_wrap=True)
errors = Console(stderr=True, soft_wrap=True)

QUIET_LIBRARIES = {
    "OMP_WAIT_POLICY": "PASSIVE",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "LANCEDB_LOG": "error",
    "ORT_DISABLE_TELEMETRY": "1",
}
LOG_LINES = 200
OUR_PACKAGES = ("assets_pkg", "resources", "storage")


@app.command()
def info(config: ConfigOption = DEFAULT_PROFILE, overrides: Overrides = None) -> None:
    """The stages, the profiles, and every setting of one profile."""
    from storage.opening import open_store

    profile = _profile(config, overrides)
    console.print(f"[bold]profiles[/]  {', '.join(profile_names())}, or a YAML file of your own")
    for stage, assets in STAGES.items():
        console.print(f"[bold]{stage:9}[/] {' -> '.join(assets)}", highlight=False)
    store = open_store(profile.artifact_root)
    if store.place != str(store.root):
        console.print(
            f"[bold]artifacts[/] {store.place}, this machine's copy in {store.root}", highlight=False
        )
    console.print(f"\n[bold]settings of {config}[/]")
    console.print_json(profile.model_dump_json())


@app.command()
def doctor(config: ConfigOption = DEFAULT_PROFILE, overrides: Overrides = None) -> None:
    """Is this machine ready for the profile? Exit code 1 if something needs mending."""
    from assets_pkg.doctor import examine

    marks = {"ok": "[green]ok[/]", "note": "[cyan]note[/]", "problem": "[red]problem[/]"}
    healthy = True
    for finding in examine(_profile(config, overrides)):
        healthy &= finding.level != "problem"
        console.print(
            f"{marks[finding.level]:18} [bold]{finding.subject}[/]: {finding.text}", highlight=False
        )
    raise typer.Exit(0 if healthy else EXIT_FAILED)


@app.command()
def run(
    config: ConfigOption = DEFAULT_PROFILE,
    first: Annotated[str, typer.Option("--from", help="First stage.")] = "sdg",
    last: Annotated[str, typer.Option("--to", help="Last stage.")] = "eval",
    dry_run: DryRunOption = False,
    run_on: RunOption = None,
    batch: BatchOption = None,
    stage: StageOption = False,
    overrides: Overrides = None,
) -> None:
    """Run the stages from one to another: only what is missing or stale."""
    where = Where(run_on, batch, stage)
    try:
        assets = assets_between(first, last)
    except StageError as error:
        raise _usage(str(error)) from error
    _run(_profile(config, where.overrides(overrides)), assets, dry_run, where)


def _stage_command(stage: str) -> None:
    def command(
        config: ConfigOption = DEFAULT_PROFILE,
        dry_run: DryRunOption = False,
        run_on: RunOption = None,
        batch: BatchOption = None,
        staged: StageOption = False,
        overrides: Overrides = None,
    ) -> None:
        where = Where(run_on, batch, staged)
        section = "eval" if stage == "eval_nim" else stage
        profile = _profile(config, where.overrides(overrides), section=section)
        asked_too = STAGES["eval_nim"] if stage == "eval" and profile.eval.eval_nim else ()
        _run(profile, [*STAGES[stage], *asked_too], dry_run, where)

    app.command(stage, help=f"Run the stage {stage}: {', '.join(STAGES[stage])}.")(command)


for _stage in ("prep", "finetune", "eval", "export", "reindex", "eval_nim"):
    _stage_command(_stage)


@app.command()
def sdg(
    config: ConfigOption = DEFAULT_PROFILE,
    dry_run: DryRunOption = False,
    run_on: RunOption = None,
    batch: BatchOption = None,
    stage: StageOption = False,
    overrides: Overrides = None,
) -> None:
    """Run the stage sdg: documents to question-passage pairs. preview=true shows a few and publishes nothing."""
    where = Where(run_on, batch, stage)
    profile = _profile(config, where.overrides(overrides), section="sdg")
    if not profile.sdg.preview or dry_run:
        _run(profile, list(STAGES["sdg"]), dry_run, where)
        return
    _run(profile, [asset for asset in STAGES["sdg"] if asset != "synthetic_qa"], dry_run=False)
    _preview(profile)


eval_set = typer.Typer(help="The exam: freeze it, look at it, bring your own.", no_args_is_help=True)
app.add_typer(eval_set, name="eval-set")


@eval_set.command("show")
def show_eval_set(config: ConfigOption = DEFAULT_PROFILE) -> None:
    """Which exam is current, and whether it is frozen."""
    for line in _exam_commands(config).describe():
        console.print(line, highlight=False)


@eval_set.command("freeze")
def freeze_eval_set(config: ConfigOption = DEFAULT_PROFILE) -> None:
    """Keep the current exam from now on: new pairs only extend training, and its documents stay out of it."""
    console.print(_exam_commands(config).freeze(), highlight=False)


@eval_set.command("import")
def import_eval_set(
    path: Annotated[Path, typer.Argument(help="A BEIR folder.")], config: ConfigOption = DEFAULT_PROFILE
) -> None:
    """Take a BEIR folder as the exam, and freeze it."""
    console.print(_exam_commands(config).take(path), highlight=False)


@eval_set.command("search")
def search_eval_set(config: ConfigOption = DEFAULT_PROFILE, overrides: Overrides = None) -> None:
    """Does hybrid search help here? The exam by the promoted model's vectors, by words, and by both."""
    import dagster as dg

    from assets_pkg.door import Inputs
    from assets_pkg.equipment import equip
    from assets_pkg.instance import open_instance
    from assets_pkg.reindex.measure import measure_search
    from storage.artifacts import Checkpoint, EvalSet

    resources = equip(_profile(config, overrides))
    with open_instance() as instance:
        inputs = Inputs(instance, resources.store)
        try:
            exam, model = inputs.input(EvalSet, "eval_set"), inputs.input(Checkpoint, "promoted_model")
        except dg.Failure as error:
            raise _failed(error.description or "") from error
    with resources.encoders.open(model) as encoder:
        for kind, means in measure_search(exam, encoder).items():
            figures = "  ".join(f"{name} {means[name]:.4f}" for name in ("NDCG@10", "Recall@10", "MRR@10"))
            console.print(f"{kind:8} {figures}", highlight=False)


@eval_set.command("release")
def release_eval_set(config: ConfigOption = DEFAULT_PROFILE) -> None:
    """Let the exam be split from the pairs again."""
    console.print(_exam_commands(config).release(), highlight=False)


@app.command()
def deploy(
    config: ConfigOption = DEFAULT_PROFILE,
    dry_run: DryRunOption = False,
    stop: Annotated[
        bool, typer.Option("--stop", help="Stop the server that an earlier deploy started.")
    ] = False,
    logs: Annotated[bool, typer.Option("--logs", help="Print the end of the server's log.")] = False,
    overrides: Overrides = None,
) -> None:
    """Start the embedding server of the promoted model, or replace the running one."""
    profile = _profile(config, overrides, section="deploy")
    if stop:
        _stop_server(profile)
    elif logs:
        _show_server_log(profile)
    else:
        _run(profile, list(STAGES["deploy"]), dry_run)
        if dry_run:
            _show_deploy_command(profile)


@app.command()
def judge(
    config: ConfigOption = DEFAULT_PROFILE,
    dry_run: DryRunOption = False,
    run_on: RunOption = None,
    batch: BatchOption = None,
    stage: StageOption = False,
    overrides: Overrides = None,
) -> None:
    """Score captions against references with the judges that are here, and rank the captioners."""
    where = Where(run_on, batch, stage)
    _run(
        _profile(config, where.overrides(overrides), section="judges"),
        list(BENCHMARKS["judges"]),
        dry_run,
        where,
    )


@app.command("image-text")
def image_text(
    config: ConfigOption = DEFAULT_PROFILE,
    dry_run: DryRunOption = False,
    run_on: RunOption = None,
    batch: BatchOption = None,
    stage: StageOption = False,
    overrides: Overrides = None,
) -> None:
    """Measure how well models put images and texts side by side."""
    where = Where(run_on, batch, stage)
    _run(
        _profile(config, where.overrides(overrides), section="image_text"),
        list(BENCHMARKS["image_text"]),
        dry_run,
        where,
    )


@app.command()
def promote(
    version: Annotated[str, typer.Argument(help="Digest of a fine-tuned or base model.")] = "",
    because: Annotated[str, typer.Option("--because", help="Why, for the history.")] = "",
    show: Annotated[bool, typer.Option("--show", help="The history of decisions; changes nothing.")] = False,
    config: ConfigOption = DEFAULT_PROFILE,
) -> None:
    """Point everything downstream at another model, by hand."""
    if show:
        _show_promotions()
    elif not version or not because:
        raise _usage('retune promote VERSION --because "why", or retune promote --show')
    else:
        _promote(_profile(config, None), version, because)


@app.command()
def rollback(config: ConfigOption = DEFAULT_PROFILE) -> None:
    """Point everything downstream at the model that was promoted before the current one."""
    from assets_pkg.evaluation.history import promotions
    from assets_pkg.instance import open_instance

    with open_instance() as instance:
        history = [each.version for each in promotions(instance)]
    earlier = [version for version in history if version != history[0]]
    if not earlier:
        raise _failed("there is no earlier promotion to go back to")
    _promote(_profile(config, None), earlier[0], f"rollback from {history[0]}")


@app.command()
def search(
    text: Annotated[str, typer.Argument(help="What to look for.")],
    k: Annotated[int, typer.Option("--k", "-k", min=1, help="How many passages.")] = 5,
    compare: Annotated[
        str | None, typer.Option("--compare", help="'base': what the base model finds.")
    ] = None,
    where: Annotated[
        str | None,
        typer.Option("--filter", help="A condition on columns, yours too: \"lang = 'de' AND year > 2020\"."),
    ] = None,
    hybrid: Annotated[bool, typer.Option("--hybrid", help="Fuse with full-text search.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    config: ConfigOption = DEFAULT_PROFILE,
    overrides: Overrides = None,
) -> None:
    """Search the current index with the model that built it."""
    from assets_pkg.reindex.compare import search_with_base
    from assets_pkg.reindex.searcher import SearchError, open_searcher
    from resources.vector_store.base import VectorStoreError
    from storage.artifact_store import ArtifactError
    from storage.opening import open_store

    if compare not in (None, "base"):
        raise _usage(f"--compare {compare}: only 'base' can be compared with")
    if compare and (where or hybrid):
        raise _usage("--compare shows plain search: leave out --filter and --hybrid")
    profile = _profile(config, overrides)
    store = open_store(profile.artifact_root)
    try:
        found = {"base model": search_with_base(store, profile, text, k)} if compare else {}
        with open_searcher(store, profile.model) as searcher:
            found["index"] = searcher.search(text, k, where, hybrid=hybrid).hits
    except (SearchError, ArtifactError, VectorStoreError) as error:
        raise _failed(str(error)) from error
    _show_hits(found, as_json)


@app.command()
def gc(
    keep: Annotated[int, typer.Option("--keep", min=1, help="How many versions of each asset to keep.")] = 3,
    dry_run: DryRunOption = False,
    config: ConfigOption = DEFAULT_PROFILE,
    overrides: Overrides = None,
) -> None:
    """Delete old versions; what is linked, current, promoted or served always stays."""
    from assets_pkg.housekeeping import TROUBLES, find_removals, remove
    from assets_pkg.instance import open_instance
    from storage.opening import open_store

    store = open_store(_profile(config, overrides).artifact_root)
    try:
        with open_instance() as instance:
            removals = list(find_removals(store, instance, keep))
        for removal in removals:
            console.print(f"{removal.asset} {removal.version}  {removal.size / 1e6:.1f} MB", highlight=False)
            if not dry_run:
                remove(store, removal)
    except TROUBLES as error:
        raise _failed(str(error)) from error
    total = sum(removal.size for removal in removals) / 1e6
    console.print(f"{len(removals)} versions, {total:.1f} MB {'would go' if dry_run else 'deleted'}")


@app.command()
def forget(
    document: Annotated[str, typer.Argument(help="The document's path inside the corpus.")],
    dry_run: DryRunOption = False,
    config: ConfigOption = DEFAULT_PROFILE,
    overrides: Overrides = None,
) -> None:
    """Delete every old version and kept answer that holds text of a document that left the corpus."""
    from assets_pkg.equipment import ANSWER_CACHE
    from assets_pkg.housekeeping import TROUBLES, find_holders, remove
    from assets_pkg.instance import open_instance
    from storage.opening import open_store

    store = open_store(_profile(config, overrides).artifact_root)
    try:
        with open_instance() as instance:
            holders = list(find_holders(store, instance, document))
        for holder in holders:
            console.print(f"{holder.asset} {holder.version}", highlight=False)
            if not dry_run:
                remove(store, holder)
    except TROUBLES as error:
        raise _failed(str(error)) from error
    if not dry_run:
        # Answers are kept by the digest of what was asked: which documents were asked about cannot be told.
        for path in (store.root / ANSWER_CACHE).parent.glob(f"{Path(ANSWER_CACHE).name}*"):
            path.unlink()
    console.print(f"{len(holders)} versions {'would go' if dry_run else 'deleted, and all kept answers'}")


@app.command()
def ui(
    config: ConfigOption = DEFAULT_PROFILE,
    port: Annotated[int, typer.Option("--port", "-p", min=1, max=65535)] = 3000,
    host: Annotated[str, typer.Option("--host")] = "127.0.0.1",
    overrides: Overrides = None,
) -> None:
    """The Dagster UI with its daemon (sensors and schedules) for this profile."""
    from assets_pkg.instance import open_instance, workspace_file

    _profile(config, overrides)
    with open_instance() as instance:
        workspace = workspace_file(instance)
    os.environ["RETUNE_PROFILE"] = config
    os.environ["RETUNE_OVERRIDES"] = "\n".join(overrides or [])
    # A script's `retune ui &` ignores SIGINT, and Dagster would then ignore SIGTERM too: nothing could stop it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # `dagster dev` rather than `dg dev`: it needs no project folder around it.
    command = [sys.executable, "-W", "ignore", "-m", "dagster", "dev", "-w", str(workspace)]
    os.execv(sys.executable, [*command, "--host", host, "--port", str(port)])


# ---- doing it ------------------------------------------------------------------------------------------------


def _run(profile: Profile, assets: list[str], dry_run: bool, where: Where = HERE) -> None:
    from assets_pkg.corpus.sources import CorpusError
    from assets_pkg.display import show_plan
    from assets_pkg.instance import end_dead_runs, open_instance
    from assets_pkg.plan import PlanError
    from assets_pkg.summary import show_places, show_summary
    from storage.opening import open_store

    check_places(errors, profile)
    defs = _definitions(profile)
    with open_instance() as instance:
        for run_id in end_dead_runs(instance):
            console.print(f"run {run_id[:8]} had been killed: marked as failed, its finished steps are kept")
        try:
            plan = _plan(defs, instance, profile, assets)
        except (PlanError, CorpusError) as error:
            raise _failed(str(error)) from error
        if dry_run:
            show_plan(console, plan)
            _show_forecast(profile, plan, instance)
            return
        if plan.to_run and where.detached:
            hand_over(console, profile, instance, defs, plan.to_run, where)
            return
        if plan.to_run:
            open_store(profile.artifact_root).check()
            _execute(defs, instance, plan)
        else:
            console.print("nothing is stale: nothing to run", style="green")
        if any(asset in tuning for tuning in STAGES.values() for asset in assets):
            show_summary(console, instance, profile)
        else:
            show_places(console, instance, assets)


def _show_forecast(profile: Profile, plan: Plan, instance: dg.DagsterInstance) -> None:
    from assets_pkg.door import Inputs
    from assets_pkg.sdg.forecast import forecast
    from resources.artifacts import ArtifactStoreResource
    from storage.artifacts import Corpus, Passages

    made = None
    if {"raw_corpus", "passages"} <= {asset.name for asset in plan.assets if asset.state == "fresh"}:
        inputs = Inputs(instance, ArtifactStoreResource(root=profile.artifact_root))
        made = inputs.input(Corpus, "raw_corpus"), inputs.input(Passages, "passages")
    for line in forecast(profile, plan, made):
        console.print(line, highlight=False)


def _preview(profile: Profile) -> None:
    from assets_pkg.door import Inputs
    from assets_pkg.equipment import equip
    from assets_pkg.instance import open_instance
    from assets_pkg.sdg.llm import preview
    from resources.chat_model import ChatModelError
    from storage.artifacts import Checkpoint, Corpus, Passages

    if profile.sdg.generator != "llm":
        raise _usage("preview=true looks at what a chat model makes: set generator=llm")
    resources = equip(profile)
    with open_instance() as instance:
        inputs = Inputs(instance, resources.store)
        corpus, passages = inputs.input(Corpus, "raw_corpus"), inputs.input(Passages, "passages")
        base = inputs.input(Checkpoint, "base_model")
    try:
        with resources.encoders.open(base) as encoder:
            seen = preview(corpus, passages, profile.sdg, resources.chat_model.get(), encoder)
    except ChatModelError as error:
        raise _failed(str(error)) from error
    for record in seen.records:
        console.print(f"[bold]{', '.join(record.file_name)}[/]", highlight=False)
        scored = zip(record.deduplicated_qa_pairs, record.qa_evaluations.evaluations, strict=True)
        for pair, evaluation in scored:
            console.print(
                f"  {evaluation.overall.score:4.1f}  {pair.question}", markup=False, highlight=False
            )
            console.print(f"        {pair.answer}", markup=False, highlight=False, style="dim")
    console.print(f"{len(seen.rejected)} pairs rejected, {seen.usage.requests} calls; nothing was published")


def _execute(defs: dg.Definitions, instance: dg.DagsterInstance, plan: Plan) -> None:
    from assets_pkg.display import live_display
    from assets_pkg.runner import run_assets

    with live_display(console, len(plan.to_run)):
        outcome = run_assets(defs, instance, plan.to_run)
    if not outcome.succeeded:
        for failure in outcome.failures:
            if failure.trace:
                errors.print(failure.trace, markup=False, highlight=False)
            errors.print(f"[red]failed[/] {failure.step}: ", end="", highlight=False)
            errors.print(failure.message, markup=False, highlight=False)
        errors.print("finished steps are kept: the same command goes on from here", highlight=False)
        raise typer.Exit(EXIT_FAILED)


def _exam_commands(config: str) -> ExamCommands:
    from assets_pkg.prep.exam_commands import ExamCommands

    return ExamCommands(_profile(config, None).artifact_root, _failed)


def _promote(profile: Profile, version: str, because: str) -> None:
    from assets_pkg.instance import open_instance
    from assets_pkg.runner import run_assets
    from assets_pkg.summary import show_summary

    defs = _definitions(profile)
    with open_instance() as instance:
        choice = {"promoted_model": {"version": version, "because": because}}
        outcome = run_assets(defs, instance, ["promoted_model"], choice)
        if not outcome.succeeded:
            raise _failed("; ".join(failure.message for failure in outcome.failures))
        show_summary(console, instance, profile)
    console.print("next: `retune run --from export --to reindex`, or let the sensor of `retune ui` re-index")


def _plan(defs: dg.Definitions, instance: dg.DagsterInstance, profile: Profile, assets: list[str]) -> Plan:
    from assets_pkg.plan import make_plan
    from assets_pkg.probes import build_probes

    return make_plan(defs, instance, assets, build_probes(profile))


def _definitions(profile: Profile) -> dg.Definitions:
    # Read by the libraries when they are first imported: idle threads that sleep, and no bars of their own.
    for name, value in QUIET_LIBRARIES.items():
        os.environ.setdefault(name, value)
    from assets_pkg.build import build_definitions

    return build_definitions(profile)


def _show_promotions() -> None:
    from assets_pkg.display import show_history
    from assets_pkg.evaluation.history import promotions, rows
    from assets_pkg.instance import open_instance

    with open_instance() as instance:
        history = rows(promotions(instance))
    if history:
        show_history(console, history)
    else:
        console.print("nothing was promoted yet")


def _stop_server(profile: Profile) -> None:
    server = _server(profile)
    if server is not None and server.stop():
        console.print(f"stopped the server at {server.url}")
    else:
        console.print("no server is running")


def _show_server_log(profile: Profile) -> None:
    server = _server(profile)
    if server is None:
        raise _failed("no server was deployed")
    console.print(server.last_log(LOG_LINES), markup=False, highlight=False)


def _show_deploy_command(profile: Profile) -> None:
    from assets_pkg.deploy.assets import STATE_FOLDER
    from assets_pkg.deploy.contract import Served
    from assets_pkg.deploy.server import shown_command
    from storage.opening import open_store

    store = open_store(profile.artifact_root)
    exported, promoted = (
        store.resolve(name) or store.root / name for name in ("stage4_export/onnx", "promoted_model")
    )
    served = Served(exported, promoted / "model" / "consolidated", promoted.name)
    console.print("the server's command, once proven:")
    console.print(
        shown_command(served, profile.deploy, store.root / STATE_FOLDER), markup=False, highlight=False
    )


def _server(profile: Profile) -> RunningServer | None:
    from assets_pkg.deploy.assets import STATE_FOLDER
    from assets_pkg.deploy.contract import DeployError
    from assets_pkg.deploy.server import read_state
    from storage.opening import open_store

    try:
        return read_state(open_store(profile.artifact_root).root / STATE_FOLDER)
    except DeployError as error:
        raise _failed(str(error)) from error


def _show_hits(found: dict[str, list], as_json: bool) -> None:
    import json
    from dataclasses import asdict

    for source, hits in found.items():
        if as_json:
            for hit in hits:
                sys.stdout.write(json.dumps({"by": source, **asdict(hit)}, ensure_ascii=False) + "\n")
            continue
        if len(found) > 1:
            console.print(f"[bold]{source}[/]")
        for rank, hit in enumerate(hits, start=1):
            place = f"{hit.doc_id} #{hit.chunk_id}"
            console.print(f"{rank:2}. {hit.score:.3f}  [cyan]{place}[/]  ", end="", highlight=False)
            console.print(" ".join(hit.text.split())[:300], markup=False, highlight=False)


# ---- errors --------------------------------------------------------------------------------------------------


def _profile(name: str, overrides: list[str] | None, section: str | None = None) -> Profile:
    try:
        return load_profile(name, overrides or [], section=section)
    except ProfileError as error:
        raise _usage(str(error)) from error


def _usage(message: str) -> typer.Exit:
    errors.print(message, markup=False, highlight=False)
    return typer.Exit(EXIT_USAGE)


def _failed(message: str) -> typer.Exit:
    errors.print(message, markup=False, highlight=False)
    return typer.Exit(EXIT_FAILED)


def main() -> None:
    """Entry point of the ``retune`` command. Errors that Retune raises itself end it with their message alone."""
    try:
        app()
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in OUR_PACKAGES:
            raise
        sys.exit(_failed(str(error)).exit_code)


if __name__ == "__main__":
    main()
