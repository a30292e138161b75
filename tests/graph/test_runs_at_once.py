"""Runs at once in one history and artifact root: each works with what it made itself, or found when it began."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import dagster as dg
import pytest
import torch
from sentence_transformers import SentenceTransformer

from assets_pkg.evaluation import assets as evaluation
from assets_pkg.finetune import assets as finetune
from assets_pkg.orchestration.history import input_version
from assets_pkg.prep import assets as prep
from storage.artifact_store import ArtifactStore
from storage.artifacts import Checkpoint, EvalReport
from tests.graph.harness import Project

MOMENTS = {
    "mining": (prep, "mine_hard_negatives"),
    "training": (finetune, "launch_training"),
    "evaluation": (evaluation, "write_eval_report"),
}


@pytest.fixture(scope="session")
def another_base(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with other weights."""
    folder = tmp_path_factory.mktemp("another") / "st"
    model = SentenceTransformer(str(tiny_model), device="cpu")
    with torch.no_grad():
        for weights in model.parameters():
            weights.mul_(1.5)
    model.save_pretrained(str(folder))
    return folder


def during(module: object, name: str, happens: Callable[[], None], patch: pytest.MonkeyPatch) -> None:
    """Let ``happens`` take place once, when ``name`` is called."""
    work = getattr(module, name)

    def once(*arguments: object, **named: object) -> object:
        patch.setattr(module, name, work)
        happens()
        return work(*arguments, **named)

    patch.setattr(module, name, once)


def made_in(project: Project, run_id: str, asset: str) -> dg.AssetMaterialization:
    records = project.instance.fetch_materializations(dg.AssetKey(asset), limit=100).records
    (made,) = [each.asset_materialization for each in records if each.run_id == run_id]
    assert made is not None
    return made


def weights_of(store: ArtifactStore, asset: str, version: str) -> torch.Tensor:
    model = SentenceTransformer(str(store.get(Checkpoint, asset, version).model), device="cpu")
    return torch.cat([each.detach().flatten() for each in model.parameters()])


def version_in(project: Project, run_id: str, asset: str) -> str:
    return (made_in(project, run_id, asset).tags or {})["dagster/data_version"]


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
    assert_whole(project, run, base)
    assert_whole(project, other, version_in(project, other, "base_model"))
    assert version_in(project, other, "base_model") != base


def assert_whole(project: Project, run: str, base: str) -> None:
    """Everything that a run made is of one base model, and it promoted that or kept what another run had promoted."""
    store = ArtifactStore(Path(project.profile.artifact_root))
    checkpoint = version_in(project, run, "checkpoint")
    report = store.get(EvalReport, "eval_metrics", version_in(project, run, "eval_metrics"))
    assert report.results()["metadata"]["models"] == {"base": base, "finetuned": checkpoint}
    assert input_version(made_in(project, run, "checkpoint"), "base_model") == base
    weights = {name: weights_of(store, *name) for name in [("checkpoint", checkpoint), ("base_model", base)]}
    others = [weights_of(store, "base_model", each) for each in store.versions("base_model") if each != base]
    own, tuned = weights["base_model", base], weights["checkpoint", checkpoint]
    assert all((tuned - own).norm() < (tuned - other).norm() for other in others)
    decision = made_in(project, run, "promoted_model")
    if decision.metadata["moved"].value:
        assert version_in(project, run, "promoted_model") == checkpoint
