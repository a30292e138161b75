"""Looking at what lies outside the graph: the corpus's files, the running server."""

from __future__ import annotations

from pathlib import Path

import dagster as dg

from assets_pkg.corpus.assets import SOURCE_FINGERPRINT
from assets_pkg.corpus.sources import source_fingerprint
from assets_pkg.deploy.assets import STATE_FOLDER
from assets_pkg.plan import Probe
from assets_pkg.profile import Profile


def build_probes(profile: Profile) -> dict[str, Probe]:
    """A probe for each asset whose truth lies outside."""
    return {
        "raw_corpus": lambda instance: _corpus_changed(instance, profile),
        "running_nim": lambda instance: _server_gone(instance, profile),
    }


def _corpus_changed(instance: dg.DagsterInstance, profile: Profile) -> str | None:
    event = instance.get_latest_materialization_event(dg.AssetKey("raw_corpus"))
    assert event is not None
    assert event.asset_materialization is not None
    recorded = event.asset_materialization.metadata[SOURCE_FINGERPRINT].value
    if source_fingerprint(profile.corpus) == recorded:
        return None
    return f"documents in {profile.corpus.corpus_dir} changed"


def _server_gone(instance: dg.DagsterInstance, profile: Profile) -> str | None:
    from assets_pkg.deploy.server import read_state

    state = read_state(Path(profile.artifact_root) / STATE_FOLDER)
    if state is None or not state.alive():
        return "the server is not running"
    if not state.serves_its_model():
        return f"the server at {state.url} does not answer as the model that was deployed"
    return None
