import math

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, ndcg_score

from assets_pkg.retrieval.errors import RetrievalError
from assets_pkg.retrieval.metrics import metric_names, score_run

K = [1, 2, 10, 100]


def reference(found, judged, k_values):
    """The definitions, written out: ties by document id descending, linear gains, nothing found is 0."""
    ranked = [
        judged.get(name, 0) for name in sorted(sorted(found, reverse=True), key=lambda name: -found[name])
    ]
    relevant = sum(gain > 0 for gain in judged.values())
    ideal = sorted((max(gain, 0) for gain in judged.values()), reverse=True)
    scores = {}
    for k in k_values:
        top = ranked[:k]
        dcg = sum(gain / math.log2(index + 2) for index, gain in enumerate(top) if gain > 0)
        scores[f"NDCG@{k}"] = dcg / sum(gain / math.log2(index + 2) for index, gain in enumerate(ideal[:k]))
        hits = [index for index, gain in enumerate(top) if gain > 0]
        scores[f"MAP@{k}"] = sum((number + 1) / (index + 1) for number, index in enumerate(hits)) / relevant
        scores[f"Recall@{k}"] = len(hits) / relevant
        scores[f"P@{k}"] = len(hits) / k
        scores[f"MRR@{k}"] = 1 / (hits[0] + 1) if hits else 0.0
    return scores


def random_case(seed):
    rng = np.random.default_rng(seed)
    qrels, run = {}, {}
    for query in range(40):
        documents = [f"d{number}" for number in rng.choice(300, size=150, replace=False)]
        qrels[f"q{query}"] = {name: int(rng.integers(0, 4)) for name in documents[: rng.integers(1, 30)]}
        qrels[f"q{query}"][documents[0]] = 1
        found = rng.choice(documents, size=rng.integers(1, 120), replace=False)
        # Few distinct scores: most ranks are decided by ties.
        run[f"q{query}"] = {str(name): float(rng.integers(0, 12)) / 8 for name in found}
    del run["q3"]
    run["q4"] = {}
    return qrels, run


@pytest.mark.parametrize("seed", range(3))
def test_equals_the_definitions_ties_and_missing_queries_included(seed):
    qrels, run = random_case(seed)
    got = score_run(run, qrels, K)
    assert got.query_ids == tuple(qrels)
    want = [reference(run.get(query, {}), judged, K) for query, judged in qrels.items()]
    assert list(got.per_query) == metric_names(K)
    assert len(got.per_query) == 20
    for name, values in got.per_query.items():
        np.testing.assert_allclose(values, [row[name] for row in want], atol=1e-6, err_msg=name)
    assert got.means()["NDCG@10"] == pytest.approx(np.mean([row["NDCG@10"] for row in want]), abs=1e-6)


def test_agrees_with_scikit_learn_where_nothing_is_tied():
    rng = np.random.default_rng(5)
    qrels, run, truth, scores = {}, {}, [], []
    for query in range(20):
        gains, values = rng.integers(0, 4, size=50), rng.permutation(50) / 64
        gains[0] = 1
        qrels[f"q{query}"] = {f"d{n}": int(gain) for n, gain in enumerate(gains)}
        run[f"q{query}"] = {f"d{n}": float(value) for n, value in enumerate(values)}
        truth.append(gains), scores.append(values)
    got = score_run(run, qrels, [10, 50])
    assert got.means()["NDCG@10"] == pytest.approx(ndcg_score(truth, scores, k=10), abs=1e-6)
    average = [
        average_precision_score(gains > 0, values) for gains, values in zip(truth, scores, strict=True)
    ]
    np.testing.assert_allclose(got.per_query["MAP@50"], average, atol=1e-6)


def test_a_worked_case():
    """b is not judged, c and a are tied: a comes after c."""
    got = score_run({"q": {"a": 0.5, "c": 0.5, "b": 0.9}}, {"q": {"a": 2, "x": 1}}, [2, 3]).means()
    assert got["MRR@2"] == 0
    assert got["MRR@3"] == pytest.approx(1 / 3)
    assert got["Recall@3"] == 0.5
    assert got["P@3"] == pytest.approx(1 / 3)
    assert got["NDCG@3"] == pytest.approx((2 / math.log2(4)) / (2 + 1 / math.log2(3)), abs=1e-6)


def test_queries_without_a_relevant_document_do_not_count():
    got = score_run({"q": {"a": 1.0}, "r": {"a": 1.0}, "s": {"a": 1.0}}, {"q": {"a": 1}, "r": {"a": 0}}, [1])
    assert got.query_ids == ("q",)
    with pytest.raises(RetrievalError, match="no query"):
        score_run({"q": {"a": 1.0}}, {"q": {"a": 0}}, [1])
