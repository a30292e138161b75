"""The eval set through the index against the evaluation, over the passages that both corpora share."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from assets_pkg.config.profile_files import load_profile
from assets_pkg.evaluation.evaluate import evaluate_retrieval
from assets_pkg.evaluation.report import write_eval_report
from assets_pkg.reindex.index import open_index
from assets_pkg.reindex.index_checks import EvaluationCheck, _shared, compare_with_measurement, measured_as
from resources.encoders.base import Role
from resources.encoders.cached import CachedEncoder
from storage.artifacts import CorpusEmbeddings, EvalReport, EvalSet, Passages
from storage.digests import passage_id
from storage.formats.beir import BeirDocument, BeirQuery, write_beir
from storage.progress import Progress, no_progress
from tests.reindex.test_index import DIMENSIONS, SETTINGS, HashingEncoder, build, embeddings, passages

__all__ = ["embeddings", "passages"]

pytestmark = pytest.mark.slow

SHARED = slice(1, 3000, 8)


class MirroredEncoder(HashingEncoder):
    """Another model of the same size: vectors of passages are reversed."""

    def embed(self, texts: list[str], role: Role, progress: Progress = no_progress) -> np.ndarray:
        vectors = super().embed(texts, role)
        return np.ascontiguousarray(vectors[:, ::-1]) if role == "passage" else vectors


@pytest.fixture
def eval_set(passages: Passages, tmp_path: Path) -> EvalSet:
    """A part of the passages, some with a title, some without their first word, and documents that the index has
    not; queries are pieces of documents of all four kinds."""
    texts = [each.text for each in passages.passages()]
    documents = [BeirDocument(f"d{number}", text) for number, text in enumerate(texts[SHARED])]
    documents += [BeirDocument(f"t{number}", texts[number], "valve") for number in range(2, 100)]
    documents += [BeirDocument(f"c{number}", texts[number].split(" ", 1)[1]) for number in range(4004, 4090)]
    documents += [BeirDocument(f"x{number}", f"foreign rotor seal x{number}") for number in range(200)]
    asked = documents[::7]
    queries = [BeirQuery(f"q{each.doc_id}", " ".join(each.text.split()[2:7])) for each in asked]
    qrels = {query.query_id: {document.doc_id: 1} for query, document in zip(queries, asked, strict=True)}
    folder = tmp_path / "eval_set"
    write_beir(folder / "eval_beir", documents, queries, qrels)
    return EvalSet(folder, "eval_set", "eval_set1")


@pytest.fixture
def report(eval_set: EvalSet, tmp_path: Path) -> EvalReport:
    settings = load_profile("laptop", ["bootstrap_samples=100"]).eval
    folder = tmp_path / "report"
    folder.mkdir()
    scores = evaluate_retrieval(eval_set, HashingEncoder(), settings)
    write_eval_report(folder, {"finetuned": scores}, eval_set, {"finetuned": "m1"}, settings)
    return EvalReport(folder, "eval_metrics", "r1")


def agreement(
    passages: Passages, vectors: CorpusEmbeddings, eval_set: EvalSet, report: EvalReport, folder: Path
) -> EvaluationCheck:
    index = build(passages, vectors, folder, SETTINGS)
    opened = open_index(index.path, index.describe()["place"])
    return compare_with_measurement(
        opened, DIMENSIONS, passages, HashingEncoder(), eval_set, report, "finetuned"
    )


def test_the_index_of_the_measured_model_agrees_among_shared_passages(
    passages: Passages, embeddings: CorpusEmbeddings, eval_set: EvalSet, report: EvalReport, tmp_path: Path
) -> None:
    found = agreement(passages, embeddings, eval_set, report, tmp_path / "index")
    assert found.queries > 20
    assert found.index_ndcg == pytest.approx(found.measured_ndcg, abs=0.005)
    assert 0.3 < found.index_ndcg <= 1
    assert found.problem(0.02) is None


def test_an_index_of_other_vectors_is_found_out(
    passages: Passages, eval_set: EvalSet, report: EvalReport, tmp_path: Path
) -> None:
    from assets_pkg.reindex.corpus_embedding import embed_passages
    from storage.artifacts import Checkpoint

    folder = tmp_path / "other"
    folder.mkdir()
    mirrored = CachedEncoder(MirroredEncoder())
    embed_passages(passages, Checkpoint(tmp_path, "checkpoint", "m1"), mirrored, {}, folder, no_progress)
    other = CorpusEmbeddings(folder, "corpus_embeddings", "e2")
    found = agreement(passages, other, eval_set, report, tmp_path / "index")
    problem = found.problem(0.02)
    assert problem is not None
    assert "through the index" in problem
    assert found.index_ndcg < found.measured_ndcg / 2


def test_a_corpus_that_shares_nothing_with_the_eval_set_is_not_judged(
    passages: Passages, embeddings: CorpusEmbeddings, report: EvalReport, tmp_path: Path
) -> None:
    documents = [BeirDocument("d1", "nothing of this is indexed")]
    write_beir(tmp_path / "foreign" / "eval_beir", documents, [BeirQuery("q", "nothing")], {"q": {"d1": 1}})
    foreign = EvalSet(tmp_path / "foreign", "eval_set", "eval_set2")
    found = agreement(passages, embeddings, foreign, report, tmp_path / "index")
    assert found == EvaluationCheck(0, 0.0, 0.0)
    assert found.problem(0.0) is None
    assert passage_id(documents[0].text) not in {each.passage_id for each in passages.passages()}


def test_the_report_is_asked_by_digest(report: EvalReport) -> None:
    assert measured_as(report, "m1") == "finetuned"
    assert measured_as(report, "m2") is None


def test_memory_of_the_comparison_does_not_grow_with_the_corpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents = [BeirDocument(f"d{number}", f"passage {number} of many") for number in range(20)]
    write_beir(tmp_path / "eval_beir", documents, [BeirQuery("q", "many")], {"q": {"d1": 1}})

    def texts(_: Passages) -> Iterator[tuple[str, str]]:
        for number in range(100_000):
            text = f"passage {number} of many"
            yield passage_id(text), text

    monkeypatch.setattr("assets_pkg.reindex.index_checks._texts", texts)
    nothing = Passages(tmp_path, "passages", "v1")
    tracemalloc.start()
    shared = _shared(EvalSet(tmp_path, "eval_set", "e1"), nothing)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert shared == {each.doc_id: passage_id(each.text) for each in documents}
    assert peak < 1_000_000  # the ids alone of all passages are seven times that
