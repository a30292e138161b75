"""Runs at once in one history and artifact root: each works with what it made itself, or found when it began."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from assets_pkg.evaluation import assets as evaluation
from assets_pkg.finetune import assets as finetune
from assets_pkg.prep import assets as prep
from tests.graph.harness import Project
from tests.graph.runs import assert_whole, save_other_weights, version_in

MOMENTS = {
    "mining": (prep, "mine_hard_negatives"),
    "training": (finetune, "launch_training"),
    "evaluation": (evaluation, "write_eval_report"),
}


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


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_run_that_another_one_overtakes_keeps_to_its_own_base(
    moment: str, project: Project, another_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project.profile_path.parent)
    base = project.version("base_model")
    theirs = project.with_overrides(f"base_model={another_base}")
    overtaking: list[str] = []
    during(*MOMENTS[moment], lambda: overtaking.append(theirs.run().run_id), monkeypatch)
    changes = ["finetune.learning_rate=1e-3", "prep.hard_negatives_to_mine=3", "eval.bootstrap_samples=300"]
    run = project.with_overrides(*changes).run().run_id
    (other,) = overtaking
    root, theirs_base = Path(project.profile.artifact_root), version_in(project.instance, other, "base_model")
    assert_whole(root, project.instance, run, base)
    assert_whole(root, project.instance, other, theirs_base)
    assert theirs_base != base


def test_a_run_works_with_what_its_plan_was_made_of(
    project: Project, another_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project.profile_path.parent)
    base = project.version("base_model")
    here = project.with_overrides("finetune.learning_rate=1e-3")
    plan = here.plan()
    project.with_overrides(f"base_model={another_base}").run()
    assert_whole(Path(project.profile.artifact_root), project.instance, here.execute(plan).run_id, base)
