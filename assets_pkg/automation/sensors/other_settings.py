"""What keeps sensors from rebuilding: the work of a person with other settings, or in another artifact root."""

import dagster as dg

from assets_pkg.config.profile import Profile
from assets_pkg.orchestration.history import SETTINGS_KEY, changed_settings, is_in, latest
from assets_pkg.orchestration.names import Names
from storage.remote_store import open_store

DECIDE_THE_INDEX = ("base_model", "raw_corpus", "passages", "corpus_embeddings", "vector_index")
"""What is never rebuilt with other settings than it was made with, unless a person does it."""


def made_with_other_settings(context: dg.SensorEvaluationContext, profile: Profile, names: Names) -> str:
    """Why nothing may be rebuilt by itself: a person worked on this history with other settings than these, or in
    another artifact root. Empty if not."""
    assert context.repository_def is not None
    store = open_store(profile.artifact_root)
    for asset in DECIDE_THE_INDEX:
        made = latest(context.instance, names.key(asset))
        if made is not None and not is_in(store, made):
            return (
                f"{asset} was last made in another artifact root than {store.location}, or is gone from there: nothing "
                "is rebuilt before a person materializes it again"
            )
        now = context.repository_def.asset_graph.get(names.key(asset)).metadata.get(SETTINGS_KEY, {})
        if changed := changed_settings(made, now):
            return (
                f"{asset} was made with other settings ({', '.join(changed)}): nothing is rebuilt before a person "
                "materializes it with the current ones, or starts the UI with those it was made with"
            )
    return ""
