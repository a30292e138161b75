import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import pytrec_eval

from assets_pkg.evaluation.errors import EvaluationError
from assets_pkg.evaluation.evaluate import evaluate_retrieval
from assets_pkg.evaluation.report import write_eval_report
from storage.artifacts import EvalReport, EvalSet
from storage.digests import digest_file
from storage.formats.beir import BeirDocument, BeirError, BeirQuery, write_beir


class HashEncoder:
    """Words as coordinates: texts that share words are near."""

    dimensions = 64

    def __init__(self, seed):
        self.seed = seed

    def identity(self, role):
        return f"hash{self.seed}"

    def embed(self, texts, role, progress=None):
        vectors = np.full((len(texts), 64), 1e-3, dtype=np.float32)
        for row, text in enumerate(texts):
            for word in text.split():
                vectors[row, (sum(map(ord, word)) * (self.seed + 7)) % 64] += 1
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


class Scattered:
    """Every text has a direction of its own, so that no two scores are equal."""

    dimensions = 64

    def embed(self, texts, role, progress=None):
        drawn = [np.random.default_rng(list(text.encode())).standard_normal(64) for text in texts]
        return (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def eval_set(tmp_path):
    words = [f"word{number}" for number in range(30)]
    documents = [BeirDocument(f"d{n}", " ".join(words[n : n + 4]), words[n - 1]) for n in range(26)]
    queries = [BeirQuery(f"q{n}", f"{words[n]} {words[n + 2]}") for n in range(26)]
    write_beir(
        tmp_path / "eval_set" / "eval_beir",
        documents,
        [*queries, BeirQuery("other", "unjudged")],
        {f"q{n}": {f"d{n}": 2, f"d{(n + 9) % 26}": 1} for n in range(26)},
    )
    return EvalSet(tmp_path / "eval_set", "eval_set", "v1")


@pytest.fixture
def report(eval_set, tmp_path, settings):
    scores = {
        name: evaluate_retrieval(eval_set, HashEncoder(seed), settings)
        for seed, name in enumerate(["base", "finetuned"])
    }
    digests = {"base": "aaa", "finetuned": "bbb", "unused": "ccc"}
    folder = tmp_path / "report"
    folder.mkdir()

    def write():
        write_eval_report(folder, scores, eval_set, digests, settings)
        return EvalReport(folder, "eval_metrics", "v")

    return write


def test_retrieval_is_exact_over_title_and_text(eval_set, settings):
    encoder = HashEncoder(1)
    scores = evaluate_retrieval(eval_set, encoder, settings)
    documents = [json.loads(line) for line in (eval_set.beir / "corpus.jsonl").read_text().splitlines()]
    texts = [f"{row['title']} {row['text']}" for row in documents]
    similarity = encoder.embed(["word4 word6"], "query") @ encoder.embed(texts, "passage").T
    assert scores.run["q4"] == pytest.approx(
        {row["_id"]: value for row, value in zip(documents, similarity[0], strict=True)}, abs=1e-6
    )
    assert "other" not in scores.run
    assert len(scores.query_ids) == 26


@pytest.mark.slow
def test_results_have_the_recipes_shape(report, settings):
    results = report().results()
    for model in ("base", "finetuned"):
        families = [[name.split("@")[0] for name in each] for each in results[model]]
        assert families == [["NDCG"] * 4, ["MAP"] * 4, ["Recall"] * 4, ["P"] * 4]
        assert list(results["mrr"][model]) == [f"MRR@{k}" for k in settings.k_values]
    assert results["metadata"]["models"] == {"base": "aaa", "finetuned": "bbb"}
    assert results["metadata"]["eval_set"] == "v1"


@pytest.mark.slow
def test_the_run_file_says_what_was_measured(report, eval_set):
    """Scoring the written files again, as any other tool would, gives the reported figures."""
    made = report()
    qrels = {f"q{n}": {f"d{n}": 2, f"d{(n + 9) % 26}": 1} for n in range(26)}
    for place, model in enumerate(("base", "finetuned")):
        run = {}
        ranks = []
        for line in (made.path / "runs" / f"{model}.trec").read_text().splitlines():
            query, _, document, rank, score, tag = line.split()
            run.setdefault(query, {})[document] = float(score)
            ranks.append(int(rank))
            assert tag == model
        assert ranks == list(range(1, 27)) * 26
        again = pytrec_eval.RelevanceEvaluator(qrels, {"ndcg_cut.10"}).evaluate(run)
        mean = np.mean([row["ndcg_cut_10"] for row in again.values()])
        assert made.results()[model][0]["NDCG@10"] == pytest.approx(mean, abs=6e-6)
        table = pq.read_table(made.path / "per_query.parquet").to_pydict()
        rows = slice(26 * place, 26 * (place + 1))
        assert set(table["model"][rows]) == {model}
        for query, value in zip(table["query_id"][rows], table["NDCG@10"][rows], strict=True):
            assert value == pytest.approx(again[query]["ndcg_cut_10"], abs=6e-6)


def test_the_comparison_and_summary_hold_together(report):
    made = report()
    comparison, summary = made.comparison(), made.summary()
    row = comparison["metrics"]["NDCG@10"]
    assert comparison["queries"] == summary["queries"] == 26
    assert row["delta"] == pytest.approx(row["finetuned"] - row["base"], abs=2e-5)
    assert row["low"] <= row["delta"] <= row["high"]
    assert row["wins"] + row["losses"] + row["ties"] == 26
    assert summary["delta_NDCG@10"] == row["delta"]
    assert summary["base_NDCG@10"] == made.results()["base"][0]["NDCG@10"] == row["base"]
    assert (made.path / "bars.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_the_same_bytes_each_time(report):
    made = report()
    names = ["eval_results.json", "comparison.json", "runs/base.trec"]
    before = [digest_file(made.path / name) for name in names]
    (made.path / "comparison.json").write_text("cut")
    report()
    assert [digest_file(made.path / name) for name in names] == before


def test_one_model_alone_is_reported_without_a_comparison(eval_set, tmp_path, settings):
    scores = {"finetuned": evaluate_retrieval(eval_set, HashEncoder(0), settings)}
    write_eval_report(tmp_path, scores, eval_set, {"finetuned": "x"}, settings)
    made = EvalReport(tmp_path, "eval_metrics", "v")
    assert made.comparison()["metrics"] == {}
    assert "base" not in made.results()
    with pytest.raises(EvaluationError, match="nothing was measured"):
        write_eval_report(tmp_path, {}, eval_set, {}, settings)


@pytest.mark.parametrize(
    ("line", "message"),
    [("q99\td1\t1\n", r"query q99"), ("q1\td99\t1\n", r"not in corpus.jsonl, the first is d99 of query q1")],
)
def test_an_incomplete_eval_set_is_an_error(eval_set, settings, line, message):
    with (eval_set.beir / "qrels" / "test.tsv").open("a") as stream:
        stream.write(line)
    with pytest.raises((BeirError, EvaluationError), match=message):
        evaluate_retrieval(eval_set, HashEncoder(0), settings)


def test_a_document_with_the_querys_own_id_does_not_count(tmp_path, settings):
    """ArguAna's and Quora's way: every query is a document too, under the same id. BEIR leaves it out."""
    names = [f"argument-{number}" for number in range(130)]
    texts = {name: f"text of {name}" for name in names}
    qrels = {name: {names[(number + 1) % 130]: 1} for number, name in enumerate(names)}
    documents = [BeirDocument(name, text) for name, text in texts.items()]
    write_beir(tmp_path / "eval_beir", documents, [BeirQuery(*each) for each in texts.items()], qrels)
    scores = evaluate_retrieval(EvalSet(tmp_path, "eval_set", "v"), Scattered(), settings)

    vectors = Scattered().embed(list(texts.values()), "query")
    similarity = np.round((vectors @ vectors.T).astype(float), 6)
    run = {
        name: {other: float(similarity[row, column]) for column, other in enumerate(names) if other != name}
        for row, name in enumerate(names)
    }
    oracle = pytrec_eval.RelevanceEvaluator(qrels, {"ndcg_cut.10", "recall.100"}).evaluate(run)
    for name, measure in (("NDCG@10", "ndcg_cut_10"), ("Recall@100", "recall_100")):
        expected = np.mean([each[measure] for each in oracle.values()])
        assert scores.means()[name] == pytest.approx(expected, abs=1e-6)
    assert {len(found) for found in scores.run.values()} == {100}
