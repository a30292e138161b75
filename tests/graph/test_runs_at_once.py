"""Runs at once in one history and artifact root: each works with what it made itself, or found when it began."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from assets_pkg.evaluation import assets as evaluation
from assets_pkg.finetune import assets as finetune
from assets_pkg.orchestration.history import input_version
from assets_pkg.prep import assets as prep
from tests.graph.harness import Project
from tests.graph.runs import assert_whole, made_in, save_other_weights, version_in


@pytest.fixture(scope="session")
def another_base(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_other_weights(tiny_model, tmp_path_factory.mktemp("another") / "st")


def during(module: object, name: str, happens: Callable[[], None], patch: pytest.MonkeyPatch) -> None:
    """Let ``happens`` take place once, when ``name`` is called."""
    work = getattr(module, name)

    def once(*arguments: object, **named: object) -> object:
        patch.setattr(module, name, work)
        happens()
        return work(*arguments, **named)

    patch.setattr(module, name, once)


@pytest.mark.slow
def test_a_run_that_others_overtake_keeps_to_its_own_base(
    project: Project, another_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others make a base model, then mined pairs, then a checkpoint, each just before the run reads its own."""
    monkeypatch.chdir(project.profile_path.parent)
    base = project.version("base_model")
    theirs = [f"base_model={another_base}", "prep.hard_negatives_to_mine=2", "finetune.learning_rate=2e-3"]
    overtaking: list[str] = []

    def while_mining() -> None:
        overtaking.append(project.with_overrides(theirs[0]).run().run_id)
        during(finetune, "launch_training", while_training, monkeypatch)

    def while_training() -> None:
        overtaking.append(project.with_overrides(*theirs[:2]).run(["mined_train_set"]).run_id)
        during(evaluation, "write_eval_report", while_evaluating, monkeypatch)

    def while_evaluating() -> None:
        overtaking.append(project.with_overrides(*theirs).run(["checkpoint"]).run_id)

    during(prep, "mine_hard_negatives", while_mining, monkeypatch)
    changes = ["finetune.learning_rate=1e-3", "prep.hard_negatives_to_mine=3", "eval.bootstrap_samples=300"]
    run = project.with_overrides(*changes).run().run_id
    root, instance = Path(project.profile.artifact_root), project.instance
    whole, mined, _ = overtaking
    theirs_base = version_in(instance, whole, "base_model")
    assert_whole(root, instance, run, base)
    assert_whole(root, instance, whole, theirs_base)
    assert theirs_base != base
    used = input_version(made_in(instance, run, "checkpoint"), "mined_train_set")
    assert (
        used == version_in(instance, run, "mined_train_set") != version_in(instance, mined, "mined_train_set")
    )


def test_a_run_works_with_what_its_plan_was_made_of(
    project: Project, another_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project.profile_path.parent)
    base = project.version("base_model")
    here = project.with_overrides("finetune.learning_rate=1e-3")
    plan = here.plan()
    project.with_overrides(f"base_model={another_base}").run()
    assert_whole(Path(project.profile.artifact_root), project.instance, here.execute(plan).run_id, base)
