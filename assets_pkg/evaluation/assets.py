"""The assets of stage 3: the evaluation of base and fine-tuned model, and the promoted model."""

import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import cast

import dagster as dg

from assets_pkg.config.profile import Profile
from assets_pkg.config.sections.evaluation import EvalSettings, SingleModelSettings
from assets_pkg.evaluation.compare import Difference, compare
from assets_pkg.evaluation.evaluate import evaluate_dimensions, evaluate_retrieval
from assets_pkg.evaluation.guard import guard_checks, guard_fingerprints
from assets_pkg.evaluation.headline import headline
from assets_pkg.evaluation.html_page import CURVES
from assets_pkg.evaluation.plots import BARS
from assets_pkg.evaluation.promotion import Decision, Promotion, check_report, decide, promotions, rows
from assets_pkg.evaluation.report import read_scores, write_eval_report
from assets_pkg.finetune.imported import (
    ImportSettings,
    import_model,
    imported_folder_changed,
    imported_from,
)
from assets_pkg.orchestration.asset_context import VERDICT, AssetContext, asset_context
from assets_pkg.orchestration.history import ARTIFACT_KEY
from assets_pkg.orchestration.instance import GPU_POOL
from assets_pkg.orchestration.metadata import numbers, picture, table
from assets_pkg.orchestration.stage_asset import accelerator_pool, stage_asset
from assets_pkg.retrieval.metrics import main_metric
from resources.configurable import (
    AcceleratorResource,
    AlertsResource,
    ArtifactStoreResource,
    ComputeResource,
    EncoderResource,
)
from storage.artifact_store import ArtifactStore
from storage.artifacts import CHECKPOINTS, Checkpoint, EvalReport, EvalSet
from storage.paths import EVAL_STAGE, PROMOTED_MODEL

PICTURES = ("bars", "gains", "slices", "dimensions")
SHOWN_HISTORY = 10
REASON_CHARS = 500

GUARD_SETS = "guard_sets"
"""Metadata key: digests of the guard sets that the gate measured, by name."""

GATE = dg.AssetCheckSpec(
    "gate",
    asset="promoted_model",
    description="The new checkpoint passed the gate and was promoted. A warning: it did not, and the model that was "
    "promoted before stays.",
)


PROMOTION_BY_HAND = {
    "version": dg.Field(
        str,
        default_value="",
        description="Promote this version of checkpoint or base_model, whatever the gate says.",
    ),
    "because": dg.Field(str, default_value="", description="The reason to promote it."),
}


def build_assets(profile: Profile) -> list[dg.AssetsDefinition]:
    """The ``eval`` group."""
    lengths = sorted({*profile.eval.eval_dimensions, *profile.finetune.matryoshka_dims})
    measured = profile.eval.model_copy(update={"eval_dimensions": lengths})

    @stage_asset(
        "eval",
        measured,
        profile.model,
        offered=(profile.eval,),
        deps=("checkpoint", "base_model", "eval_set"),
        pool=accelerator_pool(profile.compute, "eval"),
        kinds={"json"},
        logic="2",
    )
    def eval_metrics(
        context: dg.AssetExecutionContext,
        store: ArtifactStoreResource,
        compute: ComputeResource,
        encoders: EncoderResource,
    ) -> dg.MaterializeResult:
        """How well base and fine-tuned model find the answers to the eval set's questions, and how sure the difference
        is."""
        with asset_context(context, store, compute) as asset:
            eval_set = asset.input(EvalSet, "eval_set")
            models = {
                "base": asset.input(Checkpoint, "base_model"),
                "finetuned": asset.input(Checkpoint, "checkpoint"),
            }
            report = asset.build(
                EvalReport, lambda folder: _measure(folder, models, eval_set, asset, measured, encoders)
            )
            for line in headline(report, measured):
                asset.note(line)
            for name in ("eval_results.json", "report.html"):
                asset.link(f"{EVAL_STAGE}/{name}", report.path / name)
            return asset.result(report, _shown_report(report, measured))

    brought = profile.imported_model
    decides = (profile.gate,) if brought is None else (profile.model, ImportSettings(imported_model=brought))

    @stage_asset(
        "eval",
        *decides,
        deps=("eval_metrics", "checkpoint", "base_model") if brought is None else (),
        pool=GPU_POOL,
        kinds={"huggingface"},
        check_specs=[GATE],
        config=PROMOTION_BY_HAND,
        logic="2",
    )
    def promoted_model(
        context: dg.AssetExecutionContext,
        store: ArtifactStoreResource,
        encoders: EncoderResource,
        accelerator: AcceleratorResource,
        alerts: AlertsResource,
    ) -> dg.MaterializeResult:
        """The model that server and index use: the fine-tuned one if it passed the gate, or one that a person chose."""
        with asset_context(context, store) as asset:
            choice = context.op_execution_context.op_config
            outside = imported_from(brought)
            if choice["version"]:
                model, decision = _by_hand(asset, choice["version"], choice["because"])
            elif brought is not None:
                model, decision = _by_import(asset, profile, brought, accelerator)
            else:
                guards = guard_fingerprints(profile.gate)
                outside = {GUARD_SETS: guards} if guards else {}
                model, decision = _by_gate(asset, profile, encoders)
            asset.store.verify(model)
            asset.link(PROMOTED_MODEL, model.path)
            asset.note(decision.reason)
            if not decision.passed:
                alerts.send("gate_failed", decision.reason)
            before = asset.latest("promoted_model")
            shown = {
                "decision": dg.MetadataValue.text(decision.reason),
                "moved": decision.passed,
                "rules": table(
                    {"rule": check.rule, "met": "yes" if check.passed else "no", "figures": check.figures}
                    for check in decision.checks
                ),
                "previous": str(before.metadata[ARTIFACT_KEY].value) if before else "(none)",
                "history": table(
                    _short_history(promotions(asset.instance, asset.store, SHOWN_HISTORY, asset.names)),
                    REASON_CHARS,
                ),
                **outside,
            }
            check = dg.AssetCheckResult(
                check_name=GATE.name,
                passed=decision.passed,
                severity=dg.AssetCheckSeverity.WARN,
                description=decision.reason,
                metadata={name: shown[name] for name in ("decision", "rules")},
            )
            return asset.result(model, shown)._replace(check_results=[check])

    single = profile.eval.single_model
    alone = [] if single is None else [_single_model_metrics(profile, measured, single)]
    return [eval_metrics, promoted_model, *alone]


def _single_model_metrics(profile: Profile, measured: EvalSettings, name: str) -> dg.AssetsDefinition:
    """One model's measurement. It is no input of the gate, and leaves the last comparison where it is."""
    source = {"base": "base_model", "finetuned": "checkpoint"}[name]

    @stage_asset(
        "eval",
        measured,
        profile.model,
        SingleModelSettings(single_model=name),
        offered=(profile.eval,),
        deps=(source, "eval_set"),
        pool=accelerator_pool(profile.compute, "eval"),
        kinds={"json"},
    )
    def single_model_metrics(
        context: dg.AssetExecutionContext,
        store: ArtifactStoreResource,
        compute: ComputeResource,
        encoders: EncoderResource,
    ) -> dg.MaterializeResult:
        """nDCG, recall, precision, MAP and MRR of one model alone, without comparison and promotion."""
        with asset_context(context, store, compute) as asset:
            eval_set, models = asset.input(EvalSet, "eval_set"), {name: asset.input(Checkpoint, source)}
            report = asset.build(
                EvalReport, lambda folder: _measure(folder, models, eval_set, asset, measured, encoders)
            )
            asset.link(f"{EVAL_STAGE}/eval_results_{name}.json", report.path / "eval_results.json")
            if asset.previous("eval_metrics") is None:
                asset.link(f"{EVAL_STAGE}/eval_results.json", report.path / "eval_results.json")
            return asset.result(report, _shown_report(report, measured))

    return single_model_metrics


def _measure(
    folder: Path,
    models: Mapping[str, Checkpoint],
    eval_set: EvalSet,
    asset: AssetContext,
    settings: EvalSettings,
    encoders: EncoderResource,
) -> None:
    """Evaluate every model at full dimensions and at the smaller ones of ``settings``."""
    device = encoders.accelerator.get().device
    full, all_lengths = {}, {}
    for name, model in models.items():
        with encoders.open(model) as encoder:
            lengths = sorted({encoder.dimensions, *settings.eval_dimensions})
            scores = evaluate_dimensions(
                eval_set, encoder, settings, lengths, asset.progress(), device=device
            )
            full[name], all_lengths[name] = scores[encoder.dimensions], scores
    digests = {name: model.version for name, model in models.items()}
    if "finetuned" in models and (curves := models["finetuned"].path / CURVES).exists():
        shutil.copy(curves, folder / CURVES)
    write_eval_report(folder, full, eval_set, digests, settings, all_lengths, _training(models))


def _training(models: Mapping[str, Checkpoint]) -> dict[str, object]:
    """The training summary of the fine-tuned model."""
    if "finetuned" not in models:
        return {}
    source = {"base_model": models["base"].summary().get("source")} if "base" in models else {}
    return {**source, **models["finetuned"].summary()}


def _shown_report(report: EvalReport, settings: EvalSettings) -> dict[str, object]:
    metrics = report.comparison()["metrics"]
    main = (main_metric(family, settings.k_values) for family in BARS)
    comparison = [_short_row(name, metrics[name]) for name in main if name in metrics]
    drawn = [name for name in PICTURES if (report.path / f"{name}.png").exists()]
    return {
        VERDICT: headline(report, settings)[0].replace(". ", ".\n", 1),
        "comparison": table(comparison),
        **{name: picture(report.path / f"{name}.png") for name in drawn},
        "report": dg.MetadataValue.path(report.path / "report.html"),
        **numbers(report.summary()),
        "every_metric": table({"metric": name, **row} for name, row in metrics.items()),
    }


def _short_row(metric: str, row: Mapping[str, float]) -> dict[str, str]:
    """A row short enough for the UI to show the table without a click, in the width of a laptop's screen."""
    return {
        "metric": metric,
        "base": _digits(f"{row['base']:.3f}"),
        "tuned": _digits(f"{row['finetuned']:.3f}"),
        "gain": _digits(f"{row['delta']:+.3f}"),
        "interval": _digits(f"{row['low']:+.3f} to {row['high']:+.3f}"),
    }


def _digits(text: str) -> str:
    """Without the zeros before decimal points, which say nothing of figures that are at most 1."""
    return text.replace("0.", ".")


def _short_history(history: Sequence[Promotion]) -> list[dict[str, str]]:
    """As `rows`, with models by their version alone, so that the table is not wider than the page."""
    return [{**row, "model": each.version} for row, each in zip(rows(history), history, strict=True)]


def _by_gate(asset: AssetContext, profile: Profile, encoders: EncoderResource) -> tuple[Checkpoint, Decision]:
    report, eval_set = asset.input(EvalReport, "eval_metrics"), asset.input(EvalSet, "eval_set")
    base, candidate = asset.input(Checkpoint, "base_model"), asset.input(Checkpoint, "checkpoint")
    promoted = (
        asset.current(Checkpoint, "promoted_model") or base
    )  # also what another run has promoted meanwhile
    check_report(report, base, candidate, eval_set)
    against = None
    if promoted.version not in (base.version, candidate.version) and report.comparison()["metrics"]:
        against = _against(promoted, report, eval_set, asset, profile, encoders)
    guards = guard_checks(
        profile.gate,
        partial(encoders.open, base),
        partial(encoders.open, candidate),
        profile.eval,
        asset.progress(),
        device=encoders.accelerator.get().device,
    )
    decision = decide(report.comparison(), profile.gate, against, guards)
    return (candidate if decision.passed else promoted), decision


def _against(
    promoted: Checkpoint,
    report: EvalReport,
    eval_set: EvalSet,
    asset: AssetContext,
    profile: Profile,
    encoders: EncoderResource,
) -> Mapping[str, Difference]:
    """The candidate against the promoted model, which is evaluated on the same eval set here; its vectors are mostly
    cached."""
    device = encoders.accelerator.get().device
    with encoders.open(promoted) as encoder:
        scores = evaluate_retrieval(eval_set, encoder, profile.eval, asset.progress(), device=device)
    return compare(scores, read_scores(report, "finetuned"), profile.eval)


def _by_import(
    asset: AssetContext, profile: Profile, source: str, accelerator: AcceleratorResource
) -> tuple[Checkpoint, Decision]:
    model = import_model(asset, profile.model, source, accelerator)
    return model, Decision(True, f"imported from {source}: {model.version}")


def promotion_inputs_changed(made: dg.AssetMaterialization, profile: Profile, _: ArtifactStore) -> str | None:
    """Whether the folder that ``promoted_model`` was imported from changed, or a guard set that the gate measured."""
    recorded = made.metadata.get(GUARD_SETS)
    if profile.imported_model is not None or recorded is None:
        return imported_folder_changed(made, profile.imported_model)
    before = cast("Mapping[str, str]", recorded.value)
    now = guard_fingerprints(profile.gate)
    changed = [name for name, digest in before.items() if now.get(name, digest) != digest]
    return f"guard set {', '.join(changed)} changed" if changed else None


def _by_hand(asset: AssetContext, version: str, because: str) -> tuple[Checkpoint, Decision]:
    for name in CHECKPOINTS:
        if version in asset.store.versions(name):
            model = asset.store.get(Checkpoint, name, version)
            return model, Decision(True, f"set by hand to {name} {version}: {because}")
    known = ", ".join(version for name in CHECKPOINTS for version in asset.store.versions(name))
    raise dg.Failure(f"no model {version} in the store; there are {known}", allow_retries=False)
