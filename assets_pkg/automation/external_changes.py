"""Looking at what lies outside the graph: the corpus's files, the running server."""

from __future__ import annotations

from functools import partial

import dagster as dg

from assets_pkg.config.profile import Profile
from assets_pkg.config.stages import STAGE_OF
from assets_pkg.corpus.assets import SOURCE_FINGERPRINT
from assets_pkg.corpus.sources import source_fingerprint
from assets_pkg.image_text.assets import SOURCE
from assets_pkg.image_text.pairs import source_digest
from assets_pkg.judges.assets import CAPTIONS
from assets_pkg.judges.pipeline import load_captions
from assets_pkg.orchestration.asset_context import data_version, is_here
from assets_pkg.orchestration.plan import Probe
from assets_pkg.prep.eval_set import frozen_eval_set
from assets_pkg.prep.input_files import FINGERPRINT, eval_set_fingerprint, training_fingerprint
from assets_pkg.sdg.assets import OUTSIDE
from assets_pkg.sdg.generators import outside_digests
from storage.artifact_store import ArtifactError, ArtifactStore
from storage.paths import STATE_FOLDER
from storage.remote_store import open_store


def build_probes(profile: Profile) -> dict[str, Probe]:
    """A probe for each asset: is it in this profile's store, and is what it was made from outside still the same?"""
    store = open_store(profile.artifact_root)
    outside: dict[str, Probe] = {
        "raw_corpus": lambda instance: _corpus_changed(instance, profile),
        "training_set": lambda instance: _training_files_changed(instance, profile),
        "eval_set": lambda instance: _eval_set_changed(instance, profile),
        "synthetic_qa": lambda instance: _own_files_changed(instance, profile),
        "running_nim": lambda instance: _server_gone(instance, profile),
        "vector_index": lambda instance: _index_not_searched(instance, profile),
        "judge_scores": lambda instance: _captions_changed(instance, profile),
        "image_text_pairs": lambda instance: _pairs_changed(instance, profile),
    }
    return {asset: partial(_elsewhere_or_changed, asset, store, outside.get(asset)) for asset in STAGE_OF}


def _elsewhere_or_changed(
    asset: str, store: ArtifactStore, outside: Probe | None, instance: dg.DagsterInstance
) -> str | None:
    made = _latest(instance, asset)
    if not is_here(made, store):
        return f"{data_version(made)} is not in {store.location}"
    return outside(instance) if outside else None


def _corpus_changed(instance: dg.DagsterInstance, profile: Profile) -> str | None:
    recorded = _latest(instance, "raw_corpus").metadata[SOURCE_FINGERPRINT].value
    if source_fingerprint(profile.corpus) == recorded:
        return None
    return f"documents in {profile.corpus.corpus_dir} changed"


def _training_files_changed(instance: dg.DagsterInstance, profile: Profile) -> str | None:
    recorded = _latest(instance, "training_set").metadata[FINGERPRINT].value
    changed = training_fingerprint(profile.prep) != recorded
    return "the files that prep.train_input_file or prep.groups_json name changed" if changed else None


def _eval_set_changed(instance: dg.DagsterInstance, profile: Profile) -> str | None:
    store = open_store(profile.artifact_root)
    latest, frozen = _latest(instance, "eval_set"), frozen_eval_set(store)
    if frozen is not None and frozen.version == data_version(latest):
        return None
    if eval_set_fingerprint(profile.prep, store) == latest.metadata[FINGERPRINT].value:
        return None
    if frozen is not None:
        return f"another eval set was frozen: {frozen.version}"
    return "the frozen eval set was released, or files of prep.eval_data_path or prep.groups_json changed"


def _index_not_searched(instance: dg.DagsterInstance, profile: Profile) -> str | None:
    from assets_pkg.reindex.index import is_lost
    from assets_pkg.reindex.searcher import SearchError, current_index

    made = data_version(_latest(instance, "vector_index"))
    try:
        index = current_index(open_store(profile.artifact_root))
    except (SearchError, ArtifactError):
        return "the index is not in the store"
    if is_lost(index):
        return "the server has the index no longer"
    searched = index.version
    return None if searched == made else f"index {made} failed its check: {searched} is searched"


def _captions_changed(instance: dg.DagsterInstance, profile: Profile) -> str | None:
    recorded = _latest(instance, "judge_scores").metadata.get(CAPTIONS)
    if recorded is not None and recorded.value == load_captions(profile.judges).digest():
        return None
    return "the files of judges.references or judges.predictions_dir changed"


def _pairs_changed(instance: dg.DagsterInstance, profile: Profile) -> str | None:
    recorded = _latest(instance, "image_text_pairs").metadata.get(SOURCE)
    if recorded is not None and recorded.value == source_digest(profile.image_text.pairs):
        return None
    return f"{profile.image_text.pairs} changed"


def _latest(instance: dg.DagsterInstance, asset: str) -> dg.AssetMaterialization:
    event = instance.get_latest_materialization_event(dg.AssetKey(asset))
    assert event is not None
    assert event.asset_materialization is not None
    return event.asset_materialization


def _own_files_changed(instance: dg.DagsterInstance, profile: Profile) -> str | None:
    recorded = _latest(instance, "synthetic_qa").metadata[OUTSIDE].value
    if recorded == outside_digests(profile.sdg):
        return None
    return f"{profile.sdg.sdg_input_path or profile.sdg.prompts_path} changed"


def _server_gone(instance: dg.DagsterInstance, profile: Profile) -> str | None:
    from assets_pkg.deploy.deploy import read_state

    state = read_state(open_store(profile.artifact_root).root / STATE_FOLDER)
    if state is None or not state.alive():
        return "the server is not running"
    if not state.serves_its_model():
        return f"the server at {state.url} does not answer as the model that was deployed"
    return None
