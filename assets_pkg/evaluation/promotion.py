"""The gate, which promotes a checkpoint only if its gain is significant; and the history of promotions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from assets_pkg.config.sections.evaluation import GateSettings
from assets_pkg.evaluation.compare import Difference
from assets_pkg.orchestration.history import ARTIFACT_KEY, artifact_ref, latest, was_made_in
from assets_pkg.orchestration.instance import RUNNING
from assets_pkg.orchestration.names import UNPREFIXED, Names
from storage.artifact_store import ArtifactStore
from storage.artifacts import Checkpoint, EvalReport, EvalSet
from storage.errors import RetuneError
from storage.paths import PROMOTED_MODEL

if TYPE_CHECKING:
    import dagster as dg

MOST = 1000
"""Decisions of the history that are read."""

SAME = 1e-6
"""Differences of means below this are rounding."""


class GateError(RetuneError):
    """The gate cannot decide: the report lacks a metric, or is about other models or another eval set."""


@dataclass(frozen=True)
class Check:
    """One rule of the gate, whether it is met, and its figures as text."""

    rule: str
    passed: bool
    figures: str


@dataclass(frozen=True)
class Decision:
    """Whether the candidate passed; ``reason``: a message for the user; ``checks``: rule by rule."""

    passed: bool
    reason: str
    checks: tuple[Check, ...] = ()


def check_report(report: EvalReport, base: Checkpoint, candidate: Checkpoint, eval_set: EvalSet) -> None:
    """Check that a report is about these two models on this eval set.

    Raises:
        GateError: it is not.
    """
    metadata = report.results()["metadata"]
    measured = {"eval_set": metadata["eval_set"], **metadata["models"]}
    wanted = {"eval_set": eval_set.version, "base": base.version, "finetuned": candidate.version}
    for name, version in wanted.items():
        if name in measured and measured[name] != version:
            raise GateError(
                f"the report measured {name} {measured[name]}, but the current one is {version}: "
                "measure again first (retune eval), or materialize eval_metrics"
            )


def decide(
    comparison: Mapping[str, Any],
    settings: GateSettings,
    against_promoted: Mapping[str, Difference] | None = None,
    guards: Sequence[Check] = (),
) -> Decision:
    """Apply the gate to a report's comparison of base and fine-tuned model.

    The candidate passes if the paired bootstrap interval of its gain over the base is above zero, the gain is at least
    ``min_delta``, and no other metric regresses by more than ``max_regression`` with its whole interval below zero. If
    another model than the base is promoted, the candidate must not be worse than that one either, by the same metrics.

    Args:
        comparison: ``comparison.json`` of a report.
        against_promoted: candidate (``finetuned``) minus promoted model (``base``), on the same eval set.
        guards: of other eval sets.

    Raises:
        GateError: the report compares no models, or lacks the gate's metric.
    """
    metrics = comparison["metrics"]
    if not metrics:
        raise GateError(
            "the report compares no models: measure both first (retune eval, or materialize eval_metrics)"
        )
    if settings.metric not in metrics:
        raise GateError(f"the report compares no {settings.metric}: add its cut-off to eval.k_values")
    own = metrics[settings.metric]
    delta, low, high = own["delta"], own["low"], own["high"]
    gain = (
        f"{settings.metric} {own['base']:.4f} -> {own['finetuned']:.4f} "
        f"({delta:+.4f}, {comparison['confidence']:.0%} interval [{low:+.4f}, {high:+.4f}], "
        f"{comparison['queries']} queries)"
    )
    checks = [
        Check(
            "the interval's lower end is above zero",
            low > 0,
            f"{low:+.4f}; minimum detectable gain {own['detectable']:.4f}",
        ),
        Check(
            f"the gain reaches min_delta = {settings.min_delta:g}",
            delta >= settings.min_delta,
            f"{delta:+.4f}",
        ),
        _regression(
            {name: (row["delta"], row["high"]) for name, row in metrics.items()}, settings, "the base"
        ),
    ]
    if against_promoted is not None:
        checks += _against_promoted(against_promoted, settings)
    return _decision(gain, [*checks, *guards])


def _regression(changes: Mapping[str, tuple[float, float]], settings: GateSettings, other: str) -> Check:
    """No significant regression beyond the limit: of some twenty metrics, one or another falls by chance.

    Args:
        changes: (mean, upper end of its interval) of the change of every metric.
    """
    significant = {
        name: delta for name, (delta, high) in changes.items() if name != settings.metric and high < 0
    }
    worst = min(significant, key=lambda name: significant[name], default=None)
    return Check(
        f"no other metric is significantly more than max_regression = {settings.max_regression:g} below {other}",
        worst is None or significant[worst] >= -settings.max_regression - SAME,
        "none is below" if worst is None else f"{worst} {significant[worst]:+.4f}",
    )


def _against_promoted(differences: Mapping[str, Difference], settings: GateSettings) -> list[Check]:
    own = differences[settings.metric]
    figures = (
        f"{settings.metric} {own.base:.4f} promoted, {own.finetuned:.4f} new "
        f"({own.delta:+.4f}, interval [{own.low:+.4f}, {own.high:+.4f}])"
    )
    changes = {name: (each.delta, each.high) for name, each in differences.items()}
    return [
        Check("it is not worse than the promoted model", own.delta >= -SAME, figures),
        _regression(changes, settings, "the promoted model"),
    ]


def _decision(gain: str, checks: list[Check]) -> Decision:
    failed = [f"{check.rule} ({check.figures})" for check in checks if not check.passed]
    if failed:
        return Decision(False, f"not promoted: {gain}; rules not met: {'; '.join(failed)}", tuple(checks))
    return Decision(True, f"promoted: {gain}", tuple(checks))


# ---- history -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Promotion:
    """One decision: ``model`` is the promoted model after it, as ``asset/version``."""

    when: datetime
    model: str
    moved: bool
    reason: str

    @property
    def version(self) -> str:
        return self.model.partition("/")[2]


def promotions(
    instance: dg.DagsterInstance, store: ArtifactStore, most: int = MOST, names: Names = UNPREFIXED
) -> list[Promotion]:
    """The latest decisions about this artifact root's model, newest first, of the latest ``most`` of the history."""
    found: list[Promotion] = []
    for record in instance.fetch_materializations(names.key("promoted_model"), limit=most).records:
        event = record.asset_materialization
        if event is not None and was_made_in(store, event):
            metadata = event.metadata
            when = datetime.fromtimestamp(record.timestamp).astimezone()
            reason = str(metadata["decision"].value)
            model, moved = str(metadata[ARTIFACT_KEY].value), bool(metadata["moved"].value)
            found.append(Promotion(when, model, moved, reason))
    return found


def restore_pointer(instance: dg.DagsterInstance, store: ArtifactStore) -> None:
    """Point the name of the promoted model at the one of the latest decision: a promotion that was killed may have
    moved it before it was recorded. Does nothing while a run is going on."""
    decision = latest(instance, "promoted_model", store)
    recorded = None if decision is None else artifact_ref(decision)
    if recorded is None or instance.get_runs(RUNNING, limit=1):
        return
    asset, version = recorded
    pointer = store.resolve(PROMOTED_MODEL)
    if pointer is not None and pointer.name != version and store.has(asset, version):
        store.link(PROMOTED_MODEL, store.get(Checkpoint, asset, version).path)


def rows(history: Sequence[Promotion]) -> list[dict[str, str]]:
    """The history as rows of a table."""
    return [
        {
            "when": each.when.strftime("%Y-%m-%d %H:%M"),
            "model": each.model,
            "pointer": "moved" if each.moved else "kept",
            "decision": each.reason,
        }
        for each in history
    ]
