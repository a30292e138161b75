"""What the base model would have found in the same passages: the search before the tuning."""

from __future__ import annotations

import json

import numpy as np

from assets_pkg.profile import Profile
from assets_pkg.reindex.searcher import SearchError, checkpoint_encoder, current_index
from resources.vector_store.base import Hit
from storage.artifact_store import ArtifactStore
from storage.artifacts import Checkpoint, Passages


def search_with_base(store: ArtifactStore, profile: Profile, text: str, k: int) -> list[Hit]:
    """The ``k`` passages nearest to ``text`` for the base model, by exact search over the indexed passages.

    Vectors come from the cache where the base embedded these passages before.

    Raises:
        SearchError: nothing is indexed, or the base model is not in the store.
    """
    bases = store.versions("base_model")
    if not bases:
        raise SearchError("the base model is not in the store: run `retune sdg` first")
    passages = store.get(Passages, "passages", current_index(store).describe()["passages"])
    rows = list(passages.passages())
    with checkpoint_encoder(store, profile.model, store.get(Checkpoint, "base_model", bases[0])) as encoder:
        vectors = encoder.embed([row.text for row in rows], "passage")
        scores = vectors @ encoder.embed([text], "query")[0]
    best = np.argsort(-scores, kind="stable")[:k]
    return [
        Hit(
            float(scores[i]),
            *(r.passage_id, r.doc_id, r.chunk_id, r.title, r.section, r.text),
            json.loads(r.metadata),
        )
        for i, r in ((int(i), rows[int(i)]) for i in best)
    ]
