"""Search methods measured on an eval set, and the one that is chosen."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from assets_pkg.config.profile_files import load_profile
from assets_pkg.evaluation.evaluate import evaluate_retrieval
from assets_pkg.reindex.comparison import measure_methods
from assets_pkg.reindex.search_method import CANDIDATES, METRIC, choose, choose_search_method, fold_of
from assets_pkg.reindex.searcher import search_method_of
from assets_pkg.retrieval.metrics import RetrievalScores
from assets_pkg.retrieval.passage_rows import passage_rows
from assets_pkg.retrieval.search_method import DENSE, FUSION_DEPTH, SearchMethod
from resources.encoders.base import Role
from resources.vector_store.base import index_schema
from resources.vector_store.lance import LanceIndex
from storage.artifact_store import ArtifactStore, BuildKey
from storage.artifacts import Checkpoint, EvalSet, SearchChoice
from storage.formats.beir import BeirDocument, BeirQuery, read_documents, read_queries, write_beir
from storage.paths import SEARCH_METHODS
from storage.progress import Progress, no_progress
from tests.conftest import TOPICS
from tests.reindex.test_index import HashingEncoder

WORDS = [word for words in TOPICS.values() for word in words]
PROFILE = load_profile("laptop", ["bootstrap_samples=500"])
BM25, RRF, EQUAL = SearchMethod("bm25"), SearchMethod("rrf"), SearchMethod("convex", 0.5)


def write_eval_set(folder: Path, question: str) -> EvalSet:
    """Every document has a number of its own, which vectors of 64 values blur; the questions ask for numbers."""
    documents = [
        BeirDocument(f"d{number}", f"{' '.join(WORDS[number % 40 : number % 40 + 5])} code{number}", "Codes")
        for number in range(400)
    ]
    queries = [BeirQuery(f"q{number}", question.format(number)) for number in range(0, 400, 7)]
    qrels = {query.query_id: {f"d{query.query_id[1:]}": 1} for query in queries}
    write_beir(folder / "eval_set" / "eval_beir", documents, queries, qrels)
    return EvalSet(folder / "eval_set", "eval_set", "e1")


@pytest.fixture
def codes(tmp_path: Path) -> EvalSet:
    return write_eval_set(tmp_path, "where is code{}")


@pytest.mark.slow
def test_dense_search_measures_as_in_the_evaluation_and_words_help_where_they_should(codes: EvalSet) -> None:
    settings = PROFILE.eval.model_copy(update={"k_values": [10, 100]})
    expected = evaluate_retrieval(codes, HashingEncoder(), settings).means()
    measured = {
        method: scores.means()
        for method, scores in measure_methods(codes, HashingEncoder(), CANDIDATES).items()
    }
    for name in ("NDCG@10", "Recall@10", "MRR@10"):
        assert measured[DENSE][name] == pytest.approx(expected[name])
        assert measured[BM25][name] == pytest.approx(1)
        assert measured[DENSE][name] < measured[RRF][name] <= 1
        assert measured[DENSE][name] < measured[EQUAL][name] <= 1


@pytest.mark.slow
def test_every_method_ranks_as_an_index_that_is_asked_for_both(codes: EvalSet, tmp_path: Path) -> None:
    encoder, index = HashingEncoder(), LanceIndex(tmp_path / "index")
    documents = list(read_documents(codes.beir))
    texts = [each.joined for each in documents]
    rows = passage_rows([each.doc_id for each in documents], texts, encoder.embed(texts, "passage"))
    index.write([rows], index_schema(encoder.dimensions))
    measured = measure_methods(codes, encoder, CANDIDATES)
    for query in read_queries(codes.beir):
        dense = index.search(encoder.embed([query.text], "query")[0], FUSION_DEPTH)
        words = index.search_text(query.text, FUSION_DEPTH)
        for method in CANDIDATES:
            expected = [hit.score for hit in method.rank(dense, words)[:10]]
            found = measured[method].run[query.query_id]
            assert sorted(found.values(), reverse=True)[:10] == pytest.approx(expected, abs=1e-5)


class ReversedEncoder(HashingEncoder):
    """A worse one: a question is the opposite of its words."""

    def embed(self, texts: Sequence[str], role: Role, progress: Progress = no_progress) -> Any:
        vectors = super().embed(texts, role, progress)
        return -vectors if role == "query" else vectors


def written(eval_set: EvalSet, folder: Path, *overrides: str) -> dict[str, object]:
    folder.mkdir()
    profile = load_profile("laptop", ["bootstrap_samples=500", *overrides])
    model = Checkpoint(folder, "checkpoint", "m1")
    base = ReversedEncoder()
    choose_search_method(eval_set, model, HashingEncoder(), base, profile.search, profile.eval, folder)
    return json.loads((folder / "search_method.json").read_text("utf-8"))


@pytest.mark.slow
def test_where_words_are_everything_they_are_chosen(codes: EvalSet, tmp_path: Path) -> None:
    chosen = written(codes, tmp_path / "chosen")
    assert SearchMethod.parse(str(chosen["method"])).by_words
    assert chosen["questions"] == 58
    gain = chosen["gain"]
    assert isinstance(gain, dict)
    assert gain["low"] > 0
    shown = SearchChoice(tmp_path / "chosen", "search_method", "s1").gains()
    base, tuned, search = shown["rows"]
    assert [base["search"], tuned["search"]] == ["base, dense", "fine-tuned, dense"]
    assert search["search"] == f"search: {chosen['method']}"
    assert base["NDCG@10"] < tuned["NDCG@10"] < search["NDCG@10"]
    assert search["gain"] == pytest.approx(search["NDCG@10"] - base["NDCG@10"])
    assert search["NDCG@10"] - tuned["NDCG@10"] == pytest.approx(gain["delta"])
    assert (search["won"], search["lost"]) == (gain["wins"], gain["losses"])
    assert shown["count"] == 58
    assert all(row["after"] > row["before"] for row in shown["questions"][:5])
    assert (tmp_path / "chosen" / "gains.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_where_no_word_is_shared_search_stays_dense(tmp_path: Path) -> None:
    """The questions' only word is in no document: BM25 finds nothing."""
    assert written(write_eval_set(tmp_path, "number{}"), tmp_path / "chosen")["method"] == "dense"


@pytest.mark.slow
def test_a_method_that_is_set_is_used_and_measured_all_the_same(codes: EvalSet, tmp_path: Path) -> None:
    chosen = written(codes, tmp_path / "chosen", "search.method=rrf")
    assert (chosen["method"], chosen["reason"]) == ("rrf", "set by search.method")
    assert set(chosen["measured"]) == set(map(str, CANDIDATES))  # pyright: ignore[reportArgumentType]


def scores(means: Mapping[SearchMethod, float], questions: int = 200) -> dict[SearchMethod, RetrievalScores]:
    """Every question has its method's mean plus noise of its own: the same for all, and a little for each."""
    random = np.random.default_rng(0)
    shared = random.normal(0, 0.2, questions)
    ids = tuple(f"q{number}" for number in range(questions))
    return {
        method: RetrievalScores(
            ids, {METRIC: means.get(method, 0.3) + shared + random.normal(0, 0.02, questions)}, {}
        )
        for method in CANDIDATES
    }


def test_the_simplest_of_equal_methods_is_chosen() -> None:
    assert choose(scores({}), PROFILE.eval).method == DENSE
    assert choose(scores({EQUAL: 0.4, RRF: 0.4, BM25: 0.4}), PROFILE.eval).method == EQUAL
    assert choose(scores({BM25: 0.5, EQUAL: 0.4}), PROFILE.eval).method == BM25


def test_the_gain_is_that_on_questions_left_out_of_the_choice() -> None:
    better = choose(scores({RRF: 0.6}), PROFILE.eval)
    assert better.method == RRF
    assert better.gain is not None
    assert better.gain.delta == pytest.approx(0.3, abs=0.02)

    # One fold is for BM25 alone and carries the mean: the others, which choose for it, are for dense search.
    made = scores({BM25: 0.28})
    first = fold_of(made[BM25].query_ids) == 0
    assert 20 < first.sum() < 60
    made[BM25].per_query[METRIC][first] += 0.6
    assert made[BM25].means()[METRIC] > made[DENSE].means()[METRIC] + 0.05
    choice = choose(made, PROFILE.eval)
    assert choice.method == DENSE
    assert "not on questions left out" in choice.reason
    assert choice.gain is not None
    assert choice.gain.delta < 0


def test_few_questions_choose_nothing() -> None:
    choice = choose(scores({BM25: 0.9}, questions=30), PROFILE.eval)
    assert choice.method == DENSE
    assert "only 30 questions" in choice.reason


def test_each_model_has_the_method_that_was_last_chosen_for_it(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)

    def record(model: str, method: str) -> None:
        def make(folder: Path) -> None:
            (folder / "search_method.json").write_text(json.dumps({"model_digest": model, "method": method}))

        made = store.build(SearchChoice, BuildKey("search_method", f"{model}-{method}", {}), make)
        store.link(f"{SEARCH_METHODS}/{model}", made.path)

    assert search_method_of(store, "m1") == DENSE
    record("m1", "rrf")
    record("m2", "bm25")
    assert (search_method_of(store, "m1"), search_method_of(store, "m2")) == (RRF, BM25)
    assert search_method_of(store, "m3") == DENSE
    record("m1", "bm25")
    record("m1", "rrf")  # made before, and chosen again
    assert search_method_of(store, "m1") == RRF
