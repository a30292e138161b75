"""Base against fine-tuned model, and the pointer that moves only for a real gain."""

from pathlib import Path

import dagster as dg

from assets_pkg.door import ARTIFACT_KEY, Door, open_door, stage_asset
from assets_pkg.evaluation.evaluate import evaluate_retrieval
from assets_pkg.evaluation.promotion import Decision, decide
from assets_pkg.evaluation.report import write_eval_report
from assets_pkg.profile import Profile
from assets_pkg.showing import numbers, picture, table
from resources.alerts import AlertsResource
from resources.artifacts import ArtifactStoreResource
from resources.encoders.resource import EncoderResource
from storage.artifacts import Checkpoint, EvalReport, EvalSet


class PromotionChoice(dg.Config):
    """Filled in by hand only: point at ``version`` (of ``checkpoint`` or ``base_model``), and say why."""

    version: str = ""
    because: str = ""


def build_assets(profile: Profile) -> list[dg.AssetsDefinition]:
    """The ``eval`` group."""

    @stage_asset(
        "eval",
        profile.eval,
        profile.model,
        deps=("checkpoint", "base_model", "eval_set"),
        accelerated=True,
        kinds={"json"},
    )
    def eval_metrics(
        context: dg.AssetExecutionContext, store: ArtifactStoreResource, encoders: EncoderResource
    ) -> dg.MaterializeResult:
        """nDCG, recall, precision, MAP and MRR of base and fine-tuned model, with paired intervals."""
        with open_door(context, store) as door:
            exam = door.input(EvalSet, "eval_set")
            models = {
                "base": (profile.eval.eval_base, door.input(Checkpoint, "base_model")),
                "finetuned": (profile.eval.eval_finetuned, door.input(Checkpoint, "checkpoint")),
            }

            def produce(folder: Path) -> None:
                scores = {}
                for name, (wanted, model) in models.items():
                    if wanted:
                        with encoders.open(model) as encoder:
                            scores[name] = evaluate_retrieval(exam, encoder, profile.eval, door.progress())
                digests = {name: model.version for name, (_, model) in models.items()}
                write_eval_report(folder, scores, exam, digests, profile.eval)

            report = door.build(EvalReport, produce)
            door.store.link("stage3_eval/eval_results.json", report.path / "eval_results.json")
            rows = [{"metric": name, **row} for name, row in report.comparison()["metrics"].items()]
            pictures = {"bars": picture(report.path / "bars.png")} if rows else {}
            return door.result(report, {**numbers(report.summary()), "comparison": table(rows), **pictures})

    @stage_asset(
        "eval", profile.gate, deps=("eval_metrics", "checkpoint", "base_model"), kinds={"huggingface"}
    )
    def promoted_model(
        context: dg.AssetExecutionContext,
        store: ArtifactStoreResource,
        alerts: AlertsResource,
        config: PromotionChoice,
    ) -> dg.MaterializeResult:
        """The model that everything downstream uses: moved by the gate, or by hand, and back again."""
        with open_door(context, store) as door:
            model, decision = _by_hand(door, config) if config.version else _by_gate(door, profile)
            door.store.link("promoted_model", model.path)
            context.log.info(decision.reason)
            if not decision.passed:
                alerts.send("gate_failed", decision.reason)
            before = door.previous("promoted_model")
            shown = {
                "decision": dg.MetadataValue.md(decision.reason),
                "moved": decision.passed,
                "previous": str(before.metadata[ARTIFACT_KEY].value) if before else "(none)",
            }
            return door.result(model, shown)

    return [eval_metrics, promoted_model]


def _by_gate(door: Door, profile: Profile) -> tuple[Checkpoint, Decision]:
    report = door.input(EvalReport, "eval_metrics")
    exam = door.input(EvalSet, "eval_set")
    decision = decide(report.comparison(), profile.gate, exam.version)
    if decision.passed:
        return door.input(Checkpoint, "checkpoint"), decision
    kept = "promoted_model" if door.previous("promoted_model") else "base_model"
    return door.input(Checkpoint, kept), decision


def _by_hand(door: Door, config: PromotionChoice) -> tuple[Checkpoint, Decision]:
    for asset in ("checkpoint", "base_model"):
        if config.version in door.store.versions(asset):
            model = door.store.get(Checkpoint, asset, config.version)
            return model, Decision(True, f"set by hand to {asset} {config.version}: {config.because}")
    known = ", ".join(door.store.versions("checkpoint") + door.store.versions("base_model"))
    raise dg.Failure(f"no model {config.version} in the store; there are {known}", allow_retries=False)
