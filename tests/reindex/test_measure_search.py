"""Vector, full-text and hybrid search measured on an eval set."""

from __future__ import annotations

from pathlib import Path

import pytest

from assets_pkg.config.profile import load_profile
from assets_pkg.evaluation.evaluate import evaluate_retrieval
from assets_pkg.reindex.comparison import measure_search
from storage.artifacts import EvalSet
from storage.formats.beir import BeirDocument, BeirQuery, write_beir
from tests.conftest import TOPICS
from tests.reindex.test_index import HashingEncoder

WORDS = [word for words in TOPICS.values() for word in words]


@pytest.fixture
def eval_set(tmp_path: Path) -> EvalSet:
    """Every document has a number of its own, which vectors of 64 values blur; the queries ask for numbers."""
    documents = [
        BeirDocument(f"d{number}", f"{' '.join(WORDS[number % 40 : number % 40 + 5])} code{number}", "Codes")
        for number in range(400)
    ]
    queries = [BeirQuery(f"q{number}", f"where is code{number}") for number in range(0, 400, 9)]
    qrels = {query.query_id: {f"d{query.query_id[1:]}": 1} for query in queries}
    write_beir(tmp_path / "eval_set" / "eval_beir", documents, queries, qrels)
    return EvalSet(tmp_path / "eval_set", "eval_set", "e1")


def test_vectors_measure_as_in_the_evaluation_and_words_help_where_they_should(eval_set: EvalSet) -> None:
    settings = load_profile("laptop").eval.model_copy(update={"k_values": [10, 100]})
    expected = evaluate_retrieval(eval_set, HashingEncoder(), settings).means()
    measured = measure_search(eval_set, HashingEncoder())
    for name in ("NDCG@10", "Recall@10", "MRR@10"):
        assert measured["vectors"][name] == pytest.approx(expected[name], abs=0.02)
        assert measured["words"][name] == pytest.approx(1)
        assert measured["vectors"][name] < measured["hybrid"][name] <= 1
