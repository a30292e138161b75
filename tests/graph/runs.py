"""What a run made, and whether all of it is of one base model."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import torch
from sentence_transformers import SentenceTransformer

from assets_pkg.orchestration.history import input_version
from storage.artifact_store import ArtifactStore
from storage.artifacts import Checkpoint, EvalReport


def save_other_weights(model: Path, folder: Path) -> Path:
    """The model with other weights, saved in ``folder``."""
    other = SentenceTransformer(str(model), device="cpu")
    with torch.no_grad():
        for weights in other.parameters():
            weights.mul_(1.5)
    other.save_pretrained(str(folder))
    return folder


def made_in(instance: dg.DagsterInstance, run_id: str, asset: str) -> dg.AssetMaterialization:
    records = instance.fetch_materializations(dg.AssetKey(asset), limit=1000).records
    (made,) = [each.asset_materialization for each in records if each.run_id == run_id]
    assert made is not None
    return made


def version_in(instance: dg.DagsterInstance, run_id: str, asset: str) -> str:
    return (made_in(instance, run_id, asset).tags or {})["dagster/data_version"]


def assert_whole(root: Path, instance: dg.DagsterInstance, run: str, base: str) -> None:
    """Everything that a run made is of one base model, and it promoted that or kept what another run had promoted."""
    store = ArtifactStore(root)
    checkpoint = version_in(instance, run, "checkpoint")
    report = store.get(EvalReport, "eval_metrics", version_in(instance, run, "eval_metrics"))
    assert report.results()["metadata"]["models"] == {"base": base, "finetuned": checkpoint}
    assert input_version(made_in(instance, run, "checkpoint"), "base_model") == base
    others = [_weights(store, "base_model", each) for each in store.versions("base_model") if each != base]
    own, tuned = _weights(store, "base_model", base), _weights(store, "checkpoint", checkpoint)
    assert all((tuned - own).norm() < (tuned - other).norm() for other in others)
    if made_in(instance, run, "promoted_model").metadata["moved"].value:
        assert version_in(instance, run, "promoted_model") == checkpoint


def _weights(store: ArtifactStore, asset: str, version: str) -> torch.Tensor:
    model = SentenceTransformer(str(store.get(Checkpoint, asset, version).model), device="cpu")
    return torch.cat([each.detach().flatten() for each in model.parameters()])
