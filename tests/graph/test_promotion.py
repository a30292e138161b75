"""The pointer over a model's life: better, worse on purpose, better than the base only, and back by hand."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import pytest

from assets_pkg.evaluation.promotion import promotions
from assets_pkg.reindex.searched_index import current_index
from storage.artifact_store import ArtifactStore
from storage.paths import PROMOTED_MODEL
from tests.graph.harness import Project

GATED = ["checkpoint", "eval_metrics", "promoted_model"]
INDEX = ["corpus_embeddings", "vector_index"]
REINDEX = "reindex_when_model_or_corpus_changes"


def test_only_what_is_not_worse_moves_the_pointer_and_rollback_moves_it_back(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project.profile_path.parent)
    first = project.version("promoted_model")

    good = project.with_overrides("finetune.learning_rate=1e-3")
    good.run(GATED)
    better = project.version("promoted_model")
    assert better == project.version("checkpoint") != first
    assert project.tick(REINDEX) == INDEX

    for rate, why in (("0.1", "interval's lower end"), ("0.01", "not worse than the promoted model")):
        project.with_overrides(f"finetune.learning_rate={rate}").run(GATED)
        assert project.version("checkpoint") != better
        assert project.version("promoted_model") == better
        assert why in promotions(project.instance, project.store)[0].reason
        assert project.tick(REINDEX) == []
        assert good.stale(INDEX) == []

    project.promote(first)
    assert project.tick(REINDEX) == INDEX
    gate = dg.AssetCheckKey(dg.AssetKey("promoted_model"), "gate")
    evaluated = [
        record.event.asset_check_evaluation
        for record in project.instance.event_log_storage.get_asset_check_execution_history(gate, limit=4)
        if record.event
    ]
    assert [each.passed for each in evaluated] == [True, False, False, True]
    assert {each.severity for each in evaluated if not each.passed} == {dg.AssetCheckSeverity.WARN}
    decisions = promotions(project.instance, project.store)
    assert [(each.version, each.moved) for each in decisions] == [
        (first, True),
        (better, False),
        (better, False),
        (better, True),
        (first, True),
    ]
    assert decisions[0].reason == f"set by hand to checkpoint {first}: test"
    assert [each.when for each in decisions] == sorted((each.when for each in decisions), reverse=True)
    event = project.instance.get_latest_materialization_event(dg.AssetKey("promoted_model"))
    assert event is not None
    assert event.asset_materialization is not None
    shown = str(event.asset_materialization.metadata["history"].value)
    assert "not worse than the promoted model" in shown
    assert shown.count(better) == 3


def test_a_checkpoint_that_was_not_measured_is_not_promoted(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    from assets_pkg.automation.execute import run_assets

    monkeypatch.chdir(project.profile_path.parent)
    kept = project.version("promoted_model")
    other = project.with_overrides("finetune.temperature=0.08")
    other.run(["checkpoint"])
    outcome = run_assets(other.defs, other.instance, ["promoted_model"])
    assert not outcome.succeeded
    assert "measure again first (retune eval), or materialize eval_metrics" in outcome.failures[0].message
    assert project.version("promoted_model") == kept


def test_the_instant_mode_makes_a_checkpoint_that_is_measured_and_indexed(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project.profile_path.parent)
    before = project.version("promoted_model")
    instant = project.with_overrides(
        "finetune.method=adapter", "finetune.learning_rate=1e-2", "finetune.num_epochs=10"
    )
    instant.run(GATED)
    assert project.version("promoted_model") == project.version("checkpoint") != before
    assert project.tick(REINDEX) == INDEX


@pytest.mark.slow
def test_another_artifact_root_in_the_same_history_has_a_promoted_model_of_its_own(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project.profile_path.parent)
    base, first = project.version("base_model"), project.version("promoted_model")
    elsewhere = project.with_overrides("artifact_root=second", "finetune.learning_rate=1e-3")
    elsewhere.run()
    second = elsewhere.version("promoted_model")
    assert second == elsewhere.version("checkpoint") != first
    assert elsewhere.stale() == []

    project.run()
    assert project.version("promoted_model") == first
    assert project.stale() == []
    roots = [Path("output"), Path("second")]
    assert [(root / PROMOTED_MODEL).resolve().name for root in roots] == [first, second]
    assert [current_index(ArtifactStore(root)).describe()["model_digest"] for root in roots] == [
        first,
        second,
    ]

    project.promote(base)
    history = promotions(project.instance, project.store)
    assert history[0].version == base
    assert {each.version for each in history} == {base, first}
    project.store.remove("checkpoint", first)
    assert promotions(project.instance, project.store) == history  # what was decided stays known
