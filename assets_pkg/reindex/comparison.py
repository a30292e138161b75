"""The index beside other ways to search the same passages: the base model, full text, and both fused."""

from __future__ import annotations

import json
import tempfile
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from assets_pkg.config.profile import Profile
from assets_pkg.reindex.searched_index import SearchError, current_index
from assets_pkg.reindex.searcher import checkpoint_encoder
from assets_pkg.retrieval.exact_search import BlockwiseSearch
from assets_pkg.retrieval.metrics import RetrievalScores, score_run
from assets_pkg.retrieval.passage_rows import passage_rows
from assets_pkg.retrieval.search_method import FUSION_DEPTH, SearchMethod
from resources.encoders.base import Encoder
from resources.vector_store.base import Hit, index_schema
from resources.vector_store.lance import LanceIndex
from storage.artifact_store import ArtifactStore
from storage.artifacts import Checkpoint, EvalSet, Passage, Passages
from storage.formats.beir import read_documents, read_qrels, read_queries
from storage.progress import Progress, no_progress

if TYPE_CHECKING:
    import pyarrow as pa

PASSAGES_AT_ONCE = 2048
DOCUMENTS_AT_ONCE = 4096
CUTS = (10, 100)


def search_with_base(store: ArtifactStore, profile: Profile, text: str, k: int) -> list[Hit]:
    """The ``k`` passages nearest to ``text`` for the base model, by exact search over the indexed passages, a block
    of them in memory at a time. Cached vectors are reused.

    Raises:
        SearchError: nothing is indexed, or the base model is not in the store.
    """
    bases = store.versions("base_model")
    if not bases:
        raise SearchError("the base model is not in the store: run `retune sdg` first")
    passages = store.get(Passages, "passages", current_index(store).describe()["passages"])
    rows, done = passages.passages(), 0
    candidates: dict[int, Passage] = {}
    with checkpoint_encoder(store, profile.model, store.get(Checkpoint, "base_model", bases[0])) as encoder:
        search = BlockwiseSearch(encoder.embed([text], "query"), k)
        while block := list(islice(rows, PASSAGES_AT_ONCE)):
            search.add(encoder.embed([row.text for row in block], "passage"))
            candidates |= enumerate(block, start=done)
            candidates = {index: candidates[index] for index in search.found.ids[0].tolist()}
            done += len(block)
    scores: list[float] = search.found.scores[0].tolist()
    return [_hit(score, row) for score, row in zip(scores, candidates.values(), strict=True)]


def _hit(score: float, row: Passage) -> Hit:
    return Hit(
        score,
        *(row.passage_id, row.doc_id, row.chunk_id, row.title, row.section, row.text),
        json.loads(row.metadata),
    )


def measure_methods(
    eval_set: EvalSet,
    encoder: Encoder,
    methods: Sequence[SearchMethod],
    progress: Progress = no_progress,
) -> dict[SearchMethod, RetrievalScores]:
    """The scores of each search method over the eval set's own corpus, as an exact index answers. LanceDB is asked
    for words only: the nearest vectors of all questions are found at once, in much less time."""
    qrels = read_qrels(eval_set.beir)
    queries = [each for each in read_queries(eval_set.beir) if each.query_id in qrels]
    nearest = BlockwiseSearch(encoder.embed([each.text for each in queries], "query"), FUSION_DEPTH)
    names: list[str] = []
    runs: dict[SearchMethod, dict[str, dict[str, float]]] = {method: {} for method in methods}
    with tempfile.TemporaryDirectory(prefix="retune-eval-set-") as folder:
        rows = _rows(eval_set, encoder, nearest, names)
        by_words = LanceIndex(Path(folder)) if any(method.by_words for method in methods) else None
        if by_words is None:
            deque(rows, maxlen=0)
        else:
            by_words.write(rows, index_schema(encoder.dimensions))
        for number, query in enumerate(queries):
            found = zip(
                nearest.found.ids[number].tolist(), nearest.found.scores[number].tolist(), strict=True
            )
            dense = [_named(names[place], score) for place, score in found if place >= 0]
            words = by_words.search_text(query.text, FUSION_DEPTH) if by_words else []
            for method in methods:
                runs[method][query.query_id] = _run(method.rank(dense, words))
            progress(number + 1, len(queries), "questions")
    return {method: score_run(run, qrels, CUTS) for method, run in runs.items()}


def _run(hits: Sequence[Hit]) -> dict[str, float]:
    return {hit.doc_id: hit.score for hit in hits[: max(CUTS)]}


def _named(name: str, score: float) -> Hit:
    """A hit in a row of :func:`passage_rows`."""
    return Hit(score, passage_id=name, doc_id=name, chunk_id=1, title="", section="", text="")


def _rows(
    eval_set: EvalSet, encoder: Encoder, nearest: BlockwiseSearch, names: list[str]
) -> Iterator[pa.RecordBatch]:
    """The documents as rows of an index; meanwhile ``nearest`` searches them, and ``names`` gets their ids. The
    searched text includes the title, as the embedded one does."""
    documents = read_documents(eval_set.beir)
    while block := list(islice(documents, DOCUMENTS_AT_ONCE)):
        texts = [each.joined for each in block]
        vectors = encoder.embed(texts, "passage")
        nearest.add(vectors)
        own = [each.doc_id for each in block]
        names += own
        yield passage_rows(own, texts, vectors, [each.title for each in block])
