"""What the base model would have found in the same passages: the search before the tuning."""

from __future__ import annotations

import heapq
import json
from itertools import islice

from assets_pkg.profile import Profile
from assets_pkg.reindex.searcher import SearchError, checkpoint_encoder, current_index
from resources.vector_store.base import Hit
from storage.artifact_store import ArtifactStore
from storage.artifacts import Checkpoint, Passage, Passages

BLOCK = 2048


def search_with_base(store: ArtifactStore, profile: Profile, text: str, k: int) -> list[Hit]:
    """The ``k`` passages nearest to ``text`` for the base model, by exact search over the indexed passages, a block
    of them in memory at a time.

    Vectors come from the cache where the base embedded these passages before.

    Raises:
        SearchError: nothing is indexed, or the base model is not in the store.
    """
    bases = store.versions("base_model")
    if not bases:
        raise SearchError("the base model is not in the store: run `retune sdg` first")
    passages = store.get(Passages, "passages", current_index(store).describe()["passages"])
    rows, done = passages.passages(), 0
    best: list[tuple[float, int, Passage]] = []
    with checkpoint_encoder(store, profile.model, store.get(Checkpoint, "base_model", bases[0])) as encoder:
        query = encoder.embed([text], "query")[0]
        while block := list(islice(rows, BLOCK)):
            scores = (encoder.embed([row.text for row in block], "passage") @ query).tolist()
            # Of equal ones the first, and passages themselves are never compared.
            here = zip(scores, range(-done, -done - len(block), -1), block, strict=True)
            best = heapq.nlargest(k, [*best, *here])
            done += len(block)
    return [
        Hit(
            score,
            *(row.passage_id, row.doc_id, row.chunk_id, row.title, row.section, row.text),
            json.loads(row.metadata),
        )
        for score, _, row in best
    ]
