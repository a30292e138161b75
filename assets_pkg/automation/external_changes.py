"""What is outside the graph and may have changed since an asset was made: source files, the running server, the index.

Each stage has the function that looks for changes of its asset beside that asset; here is the table of them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import dagster as dg

from assets_pkg.config.profile import Profile
from assets_pkg.config.stages import STAGE_OF
from assets_pkg.corpus.assets import documents_changed
from assets_pkg.deploy.assets import server_changed
from assets_pkg.evaluation.assets import promotion_inputs_changed
from assets_pkg.finetune.assets import base_model_changed, checkpoint_folder_changed
from assets_pkg.image_text.assets import pairs_changed
from assets_pkg.judges.assets import captions_changed, published_changed
from assets_pkg.orchestration.history import data_version, is_in
from assets_pkg.orchestration.plan import Probe
from assets_pkg.prep.assets import eval_set_changed, training_files_changed
from assets_pkg.reindex.assets import searched_index_changed
from assets_pkg.sdg.assets import pair_files_changed
from storage.artifact_store import ArtifactStore
from storage.remote_store import open_store

ExternalChange = Callable[[dg.AssetMaterialization, Profile, ArtifactStore], str | None]
"""Given the latest materialization of an asset: what has changed outside since then, or None."""

EXTERNAL_CHANGES: dict[str, ExternalChange] = {
    "base_model": base_model_changed,
    "raw_corpus": documents_changed,
    "synthetic_qa": pair_files_changed,
    "training_set": training_files_changed,
    "eval_set": eval_set_changed,
    "checkpoint": checkpoint_folder_changed,
    "promoted_model": promotion_inputs_changed,
    "running_nim": server_changed,
    "vector_index": searched_index_changed,
    "judge_scores": captions_changed,
    "judge_ranking": published_changed,
    "image_text_pairs": pairs_changed,
}


def build_probes(profile: Profile) -> dict[str, Probe]:
    """A probe for each asset: is it in this profile's store, and is everything outside the graph unchanged?"""
    store = open_store(profile.artifact_root)
    return {asset: partial(_probe, asset, profile, store) for asset in STAGE_OF}


def _probe(asset: str, profile: Profile, store: ArtifactStore, made: dg.AssetMaterialization) -> str | None:
    if not is_in(store, made):
        return f"{data_version(made)} is not in {store.location}"
    changed = EXTERNAL_CHANGES.get(asset)
    return changed(made, profile, store) if changed else None
