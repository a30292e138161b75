from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from assets_pkg.config.profile_files import load_profile
from assets_pkg.config.sections.evaluation import GateSettings
from assets_pkg.evaluation.compare import Difference
from assets_pkg.evaluation.promotion import GateError, check_report, decide
from storage.artifacts import Checkpoint, EvalReport, EvalSet


def gate(**changes: Any) -> GateSettings:
    return load_profile("laptop").gate.model_copy(update=changes)


def difference(delta: float, spread: float = 0.01) -> Difference:
    return Difference(0.5, 0.5 + delta, delta, delta - spread, delta + spread, 0.01, 30, 10, 60, 0.02)


def comparison(**deltas: float) -> dict[str, Any]:
    names = {"ndcg": "NDCG@10", "recall": "Recall@10", "mrr": "MRR@10"}
    metrics = {names[name]: vars(difference(delta)) for name, delta in deltas.items()}
    return {"metrics": metrics, "confidence": 0.95, "queries": 100}


@pytest.mark.parametrize(
    ("deltas", "settings", "passed", "words"),
    [
        ({"ndcg": 0.03}, {}, True, "promoted: NDCG@10 0.5000 -> 0.5300 (+0.0300, 95% interval"),
        ({"ndcg": 0.005}, {}, False, "the interval's lower end is above zero (-0.0050"),
        ({"ndcg": 0.01}, {}, False, "lower end"),  # touches zero
        ({"ndcg": -0.03}, {}, False, "lower end"),
        ({"ndcg": 0.03}, {"min_delta": 0.03}, True, "promoted"),
        ({"ndcg": 0.03}, {"min_delta": 0.031}, False, "min_delta = 0.031"),
        ({"ndcg": 0.03, "recall": -0.02}, {}, True, "promoted"),
        ({"ndcg": 0.03, "recall": -0.021, "mrr": -0.01}, {}, False, "Recall@10 -0.0210"),
        ({"ndcg": 0.03, "recall": -0.021}, {"max_regression": 0.05}, True, "promoted"),
        ({"ndcg": 0.03, "recall": 0.01}, {"max_regression": 0.0}, True, "promoted"),
    ],
)
def test_the_rules(deltas: dict[str, float], settings: dict[str, Any], passed: bool, words: str) -> None:
    decision = decide(comparison(**deltas), gate(**settings))
    assert decision.passed is passed
    assert decision.passed == all(check.passed for check in decision.checks)
    assert words in decision.reason


def test_a_loss_within_chance_is_none() -> None:
    deltas = {"NDCG@10": 0.01, "Recall@10": -0.04}
    promoted = {name: difference(delta, spread=0.05) for name, delta in deltas.items()}
    assert decide(comparison(ndcg=0.05), gate(), promoted).passed


@pytest.mark.parametrize(
    ("deltas", "passed", "words"),
    [
        ({"NDCG@10": 0.0}, True, "promoted"),
        ({"NDCG@10": 0.01}, True, "promoted"),
        (
            {"NDCG@10": -0.001},
            False,
            "not worse than the promoted model (NDCG@10 0.5000 promoted, 0.4990 new",
        ),
        ({"NDCG@10": 0.01, "MRR@10": -0.03}, False, "below the promoted model (MRR@10 -0.0300)"),
    ],
)
def test_what_is_promoted_already_must_not_get_worse(
    deltas: dict[str, float], passed: bool, words: str
) -> None:
    promoted = {name: difference(delta) for name, delta in deltas.items()}
    decision = decide(comparison(ndcg=0.05), gate(), promoted)
    assert decision.passed is passed
    assert words in decision.reason


def test_a_report_that_lacks_the_metric_cannot_decide() -> None:
    with pytest.raises(GateError, match=r"no P@5: .*k_values"):
        decide(comparison(ndcg=0.1), gate(metric="P@5"))


def test_a_report_that_compares_nothing_reaches_no_decision() -> None:
    with pytest.raises(GateError, match=r"compares no models: measure both first"):
        decide(comparison(), gate())


@pytest.mark.parametrize("other", ["eval_set", "base", "finetuned"])
def test_a_report_about_something_else_decides_nothing(tmp_path: Path, other: str) -> None:
    measured = {"eval_set": "e1", "models": {"base": "b1", "finetuned": "f1"}}
    (tmp_path / "eval_results.json").write_text(json.dumps({"metadata": measured}))
    now = {"eval_set": "e1", "base": "b1", "finetuned": "f1"}
    report = EvalReport(tmp_path, "eval_metrics", "r1")

    def check() -> None:
        base, tuned = (Checkpoint(tmp_path, name, now[name]) for name in ("base", "finetuned"))
        check_report(report, base, tuned, EvalSet(tmp_path, "eval_set", now["eval_set"]))

    check()
    now[other] = "new"
    with pytest.raises(GateError, match=rf"measured {other} \w1, but the current one is new: measure again"):
        check()
