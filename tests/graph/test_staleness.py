"""What is stale after which change, and that the index follows the model and the corpus, once."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import pytest
import sqlalchemy
from sqlalchemy import event

from tests.conftest import write_corpus
from tests.graph.harness import Project

INDEX = ["corpus_embeddings", "vector_index"]
MODEL_SIDE = ["checkpoint"]
REINDEX = "reindex_when_model_or_corpus_changes"
CORPUS = "corpus_when_documents_change"


@pytest.fixture(autouse=True)
def in_project(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project.profile_path.parent)


def change_one_document(project: Project) -> None:
    path = next(Path("documents").glob("*.md"))
    path.write_text(path.read_text() + "\nAnother sentence about the seal and the rotor stands here now.\n")


def test_after_a_whole_run_nothing_is_stale_and_nothing_would_run(project: Project) -> None:
    assert project.plan().to_run == []


def test_a_plan_asks_for_all_assets_at_once(project: Project) -> None:
    asked: list[str] = []

    def count(connection: object, cursor: object, statement: str, *_: object) -> None:
        asked.append(statement)

    event.listen(sqlalchemy.Engine, "before_cursor_execute", count)
    try:
        plan = project.plan()
    finally:
        event.remove(sqlalchemy.Engine, "before_cursor_execute", count)
    assert len([each for each in asked if "FROM event_logs" in each]) < 2 * len(plan.assets)


def test_a_changed_document_makes_the_corpus_stale_and_the_models_only_follow(project: Project) -> None:
    change_one_document(project)
    plan = {asset.name: asset for asset in project.plan().assets}
    assert plan["raw_corpus"].state == "stale"
    assert "documents changed" in plan["raw_corpus"].reasons[0]
    assert plan["passages"].state == "follows"
    assert plan["base_model"].state == "fresh"


def test_a_changed_temperature_makes_the_checkpoint_stale_not_the_corpus_side(project: Project) -> None:
    warm = project.with_overrides("finetune.temperature=0.07")
    plan = {asset.name: asset for asset in warm.plan().assets}
    assert plan["checkpoint"].state == "stale"
    assert plan["checkpoint"].reasons == ("settings changed: temperature 0.05 -> 0.07",)
    assert plan["eval_metrics"].state == "follows"
    for name in ("raw_corpus", "passages", "synthetic_qa", "training_set", "eval_set", "mined_train_set"):
        assert plan[name].state == "fresh"


def test_a_setting_that_decided_nothing_before_is_named_as_the_reason(project: Project) -> None:
    limited = project.with_overrides("passages.max_chunk_tokens=model")
    plan = {asset.name: asset for asset in limited.plan().assets}
    assert plan["passages"].reasons[0] == "settings changed: max_chunk_tokens None -> 'model'"
    assert limited.tick(CORPUS) == []


def test_the_old_value_back_is_fresh_again_after_a_rerun_to_the_same_bytes(project: Project) -> None:
    before = project.version("checkpoint")
    warm = project.with_overrides("finetune.temperature=0.07")
    warm.run()
    assert warm.version("checkpoint") != before
    assert "checkpoint" in project.stale()
    project.run()
    assert project.version("checkpoint") == before
    assert project.plan().to_run == []


def test_sensors_rebuild_nothing_that_a_person_made_with_other_settings(
    project: Project, tmp_path: Path
) -> None:
    """A person runs the command with their own documents; a UI with the old settings goes on beside it."""
    own = project.with_overrides(f"corpus.corpus_dir={write_corpus(tmp_path / 'own', documents=12, seed=5)}")
    own.run()
    built = project.version("vector_index")
    assert project.tick(CORPUS) == []
    assert project.tick(REINDEX) == []
    assert project.version("vector_index") == built
    with dg.build_sensor_context(instance=project.instance, definitions=project.defs) as context:
        skipped = project.defs.resolve_sensor_def(CORPUS)(context)
    assert isinstance(skipped, dg.SkipReason)
    assert "raw_corpus was made with other settings (corpus_dir " in (skipped.skip_message or "")
    (tmp_path / "own" / "new.md").write_text(
        "# A new page\n\nThe seal of the pump is checked every day at noon.\n"
    )
    assert own.tick(CORPUS) == ["raw_corpus", "passages"]
    assert own.tick(REINDEX) == INDEX


def test_a_promotion_and_its_rollback_each_make_the_index_stale_and_one_tick_clears_it(
    project: Project,
) -> None:
    first, built = project.version("promoted_model"), project.version("vector_index")
    assert project.tick(REINDEX) == []
    _promote_another(project)
    assert project.stale(INDEX) == INDEX
    assert project.tick(REINDEX) == INDEX
    assert project.stale(INDEX) == []
    assert project.tick(REINDEX) == []
    assert project.version("vector_index") != built
    project.promote(first)
    assert project.tick(REINDEX) == INDEX
    assert project.version("vector_index") == built  # embeds nothing anew
    assert project.tick(REINDEX) == []


def test_a_failed_gate_keeps_the_pointer_and_starts_no_reindex(project: Project) -> None:
    kept = project.version("promoted_model")
    strict = project.with_overrides("gate.min_delta=0.9", "finetune.temperature=0.09")
    strict.run(["checkpoint", "eval_metrics", "promoted_model"])
    assert strict.version("checkpoint") != kept
    assert strict.version("promoted_model") == kept
    assert strict.tick(REINDEX) == []
    assert strict.stale(INDEX) == []


def test_changed_documents_reach_the_index_through_both_sensors(project: Project) -> None:
    assert project.tick(CORPUS) == []
    change_one_document(project)
    assert project.tick(CORPUS) == ["raw_corpus", "passages"]
    assert project.tick(REINDEX) == INDEX
    assert project.tick(CORPUS) == []
    assert project.tick(REINDEX) == []


def test_an_unchanged_corpus_read_again_starts_nothing(project: Project) -> None:
    from assets_pkg.automation.execute import run_assets

    assert run_assets(project.defs, project.instance, ["raw_corpus", "passages"]).succeeded
    assert project.tick(REINDEX) == []


def test_a_version_that_does_not_exist_is_not_promoted(project: Project) -> None:
    from assets_pkg.automation.execute import run_assets

    kept = project.version("promoted_model")
    choice = {"promoted_model": {"version": "feedfacefeedface", "because": "typo"}}
    outcome = run_assets(project.defs, project.instance, ["promoted_model"], choice)
    assert not outcome.succeeded
    assert "no model feedfacefeedface" in outcome.failures[0].message
    assert project.version("promoted_model") == kept


def _promote_another(project: Project) -> None:
    current = project.version("promoted_model")
    models = [project.version("base_model"), project.version("checkpoint")]
    project.promote(next(version for version in models if version != current))
