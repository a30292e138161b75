"""Parts of the eval set, the largest changes, shortened vectors, the page; and memory that does not grow."""

from __future__ import annotations

import json
from dataclasses import asdict
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from assets_pkg.config.sections.evaluation import EvalSettings
from assets_pkg.evaluation import evaluate as module
from assets_pkg.evaluation.compare import compare
from assets_pkg.evaluation.errors import EvaluationError
from assets_pkg.evaluation.evaluate import evaluate_dimensions, evaluate_retrieval
from assets_pkg.evaluation.headline import answer_rank, headline
from assets_pkg.evaluation.html_page import verdict
from assets_pkg.evaluation.report import read_run, read_scores, with_languages, write_eval_report
from assets_pkg.retrieval.metrics import RetrievalScores, score_run
from storage.artifacts import EvalReport, EvalSet
from storage.formats.beir import BeirDocument, BeirQuery, read_qrels, write_beir
from storage.progress import no_progress
from storage.vectors import truncate

DOCUMENTS = 40


class NoisyEncoder:
    """Document n and query n share a random vector; queries are disturbed by ``noise``."""

    dimensions = 16

    def __init__(self, noise: float):
        self.noise = noise

    def identity(self, role):
        return f"noisy{self.noise}"

    def embed(self, texts, role, progress=no_progress):
        rows = []
        for text in texts:
            number = int(text.split()[-1])
            vector = np.random.default_rng(number).normal(size=16)
            if role == "query":
                vector = vector + self.noise * np.random.default_rng(1000 + number).normal(size=16)
            rows.append(vector / np.linalg.norm(vector))
        progress(len(texts), len(texts), "texts")
        return np.array(rows, dtype=np.float32)


@pytest.fixture
def eval_set(tmp_path: Path) -> EvalSet:
    queries = [
        BeirQuery(
            f"q{n}",
            f"<what> is {n}",
            {
                "query_type": "structural" if n % 2 else "multi_hop",
                "reasoning_type": "factual",
                "hop_count": 1 + n % 3 if n < 36 else 9,
                "file_name": [f"file{n // 10}.md"],
            },
        )
        for n in range(DOCUMENTS)
    ]
    write_beir(
        tmp_path / "eval_set" / "eval_beir",
        [BeirDocument(f"d{n}", f"this is {n}") for n in range(DOCUMENTS)],
        queries,
        {f"q{n}": {f"d{n}": 1} for n in range(DOCUMENTS)},
    )
    return EvalSet(tmp_path / "eval_set", "eval_set", "eval_set1")


@pytest.fixture
def report(eval_set: EvalSet, tmp_path: Path, settings: EvalSettings) -> EvalReport:
    folder = tmp_path / "report"
    folder.mkdir()
    models = {"base": NoisyEncoder(1.5), "finetuned": NoisyEncoder(0.7)}
    lengths = {
        name: evaluate_dimensions(eval_set, model, settings, [4, 16]) for name, model in models.items()
    }
    full = {name: scores[16] for name, scores in lengths.items()}
    training = {
        "trained": True,
        "steps_done": 8,
        "plan": {"examples": 36, "steps": 9, "epochs": 3, "batch_size": 12},
        "initial_loss": 0.9,
        "final_loss": 0.1,
    }
    write_eval_report(folder, full, eval_set, {"base": "b1", "finetuned": "f1"}, settings, lengths, training)
    return EvalReport(folder, "eval_metrics", "r1")


def read(report: EvalReport, name: str):
    return json.loads((report.path / name).read_text("utf-8"))


def test_a_questions_language_is_that_of_its_best_answer(tmp_path: Path) -> None:
    english = "The valve at the inlet of the pump is closed by hand before the filter is changed."
    german = "Das Ventil am Einlass der Pumpe wird von Hand geschlossen, und der Filter ist dann zu wechseln."
    documents = [BeirDocument("en", english), BeirDocument("de", german)]
    qrels = {"q0": {"en": 1, "de": 2}, "q1": {"en": 1}, "q2": {"de": 1}}
    queries = {
        "q0": BeirQuery("q0", "Filter?"),
        "q1": BeirQuery("q1", "Ventil?"),
        "q2": BeirQuery("q2", "vanne ?", {"language": "fr"}),
        "q3": BeirQuery("q3", "not judged"),
    }
    write_beir(tmp_path / "eval_beir", documents, queries.values(), qrels)
    found = with_languages(queries, EvalSet(tmp_path, "eval_set", "e"), qrels)
    assert {name: each.metadata.get("language") for name, each in found.items()} == {
        "q0": "de",
        "q1": "en",
        "q2": "fr",
        "q3": None,
    }


@pytest.mark.slow
def test_parts_are_compared_as_the_whole_is(report: EvalReport, settings: EvalSettings) -> None:
    rows = read(report, "slices.json")
    sizes = {(row["kind"], row["value"]): row["queries"] for row in rows}
    assert sizes == {
        ("query type", "multi_hop"): 20,
        ("query type", "structural"): 20,
        ("hops", "1"): 12,
        ("hops", "2"): 12,
        ("hops", "3"): 12,  # hops 9: four queries only; reasoning type: one part only
        **{("document", f"file{n}.md"): 10 for n in range(4)},
    }
    base, tuned = (read_scores(report, name) for name in ("base", "finetuned"))
    odd = [place for place, query in enumerate(base.query_ids) if int(query[1:]) % 2]
    expected = (tuned.per_query["NDCG@10"] - base.per_query["NDCG@10"])[odd]
    (row,) = [row for row in rows if row["value"] == "structural" and row["metric"] == "NDCG@10"]
    assert row["delta"] == pytest.approx(expected.mean(), abs=1e-5)
    assert row["low"] < row["delta"] < row["high"]
    assert row["wins"] == (expected > 1e-9).sum()


@pytest.mark.slow
def test_the_headline_is_the_verdict_and_the_question_that_gained_most(
    report: EvalReport, settings: EvalSettings
) -> None:
    concluded, example = headline(report, settings)
    row = read(report, "comparison.json")["metrics"]["NDCG@10"]
    assert concluded.startswith(
        f"The fine-tuned model is better: NDCG@10 {row['base']:.3f} → {row['finetuned']:.3f}. {row['delta']:+.4f}"
    )
    base, tuned = (read_scores(report, name) for name in ("base", "finetuned"))
    gains = tuned.per_query["NDCG@10"] - base.per_query["NDCG@10"]
    query = min(base.query_ids[place] for place in np.flatnonzero(np.isclose(gains, gains.max())))
    found = {model: [name for name, _ in read_run(report, model)[query]] for model in ("base", "finetuned")}
    before, after = (found[model].index(f"d{query[1:]}") + 1 for model in ("base", "finetuned"))
    assert example == f"before and after: '<what> is {query[1:]}': answer at rank {before} -> {after}"


@pytest.mark.parametrize(
    ("summary", "by", "words"),
    [
        (
            {"questions_by": "structure", "corpus": "pydoc://stdlib"},
            "structure of the documents",
            "smaller gain",
        ),
        ({"questions_by": "model", "questions_from": "some/llm"}, "chat model", "some/llm"),
        ({"questions_by": "own", "questions_from": "beir/"}, "your own", "beir/"),
        (None, "not recorded", ""),
    ],
)
def test_the_report_says_who_wrote_the_questions(
    eval_set: EvalSet,
    tmp_path: Path,
    settings: EvalSettings,
    summary: dict[str, str] | None,
    by: str,
    words: str,
) -> None:
    if summary is not None:
        (eval_set.path / "summary.json").write_text(json.dumps(summary))
    scores = evaluate_retrieval(eval_set, NoisyEncoder(0.7), settings)
    write_eval_report(tmp_path, {"finetuned": scores}, eval_set, {"finetuned": "f1"}, settings)
    asked = EvalReport(tmp_path, "eval_metrics", "r1").questions()
    assert by in asked["by"]
    assert asked["lines"]["questions"].startswith(f"{DOCUMENTS}, ")
    page = (tmp_path / "report.html").read_text("utf-8")
    for text in (by, words, *(summary or {}).get("corpus", "").split()):
        assert text in page
    assert bool(asked["meaning"]) == (summary is not None)


def test_an_answer_that_was_not_found_has_no_rank() -> None:
    assert answer_rank([{"rank": 1, "relevant": False}]) == "not found"


@pytest.mark.slow
def test_the_largest_changes_come_with_what_was_found(report: EvalReport, eval_set: EvalSet) -> None:
    changes = read(report, "changes.json")
    base, tuned = (read_scores(report, name).per_query["NDCG@10"] for name in ("base", "finetuned"))
    gains = tuned - base
    shown = [row["finetuned"] - row["base"] for row in changes["gained"]]
    assert shown == pytest.approx(sorted(gains, reverse=True)[: len(shown)], abs=2e-5)
    assert len(shown) == min(10, (gains > 0).sum()) > 3
    lost = [row["finetuned"] - row["base"] for row in changes["lost"]]
    assert lost == pytest.approx(sorted(gains)[: len(lost)], abs=2e-5)
    assert len(lost) == min(10, (gains < 0).sum())
    runs = {}
    for model in ("base", "finetuned"):
        for line in (report.path / "runs" / f"{model}.trec").read_text().splitlines():
            query, _, document, rank, *_ = line.split()
            runs[model, query, int(rank)] = document
    for row in changes["gained"]:
        answer = f"d{row['query_id'][1:]}"
        for side, model in (("before", "base"), ("after", "finetuned")):
            hits = row[side]
            assert [hit["rank"] for hit in hits[:3]] == [1, 2, 3]
            for hit in hits:
                assert runs[model, row["query_id"], hit["rank"]] == hit["doc_id"]
                assert hit["relevant"] == (hit["doc_id"] == answer)
                assert hit["text"] == f"this is {hit['doc_id'][1:]}"
            assert sum(hit["relevant"] for hit in hits) == 1


@pytest.mark.slow
def test_shortened_vectors_are_measured_as_vectors_of_that_length(
    report: EvalReport, eval_set: EvalSet, settings: EvalSettings
) -> None:
    encoder = NoisyEncoder(0.7)
    texts = [[f"{n}" for n in range(DOCUMENTS)]] * 2
    queries, passages = (
        encoder.embed(part, role)[:, :4] for part, role in zip(texts, ("query", "passage"), strict=True)
    )
    cosines = queries @ passages.T / np.linalg.norm(passages, axis=1)
    run = {f"q{n}": {f"d{m}": float(cosines[n, m]) for m in range(DOCUMENTS)} for n in range(DOCUMENTS)}
    expected = score_run(run, read_qrels(eval_set.beir), settings.k_values).means()["NDCG@10"]
    short, full = read(report, "dimensions.json")
    assert (short["dimensions"], full["dimensions"]) == (4, 16)
    assert short["finetuned"] == pytest.approx(expected, abs=1e-5)
    assert full["finetuned"] == report.comparison()["metrics"]["NDCG@10"]["finetuned"]
    assert short["finetuned"] < full["finetuned"]
    assert np.linalg.norm(truncate(np.eye(3, dtype=np.float32), 2)[0]) == 1
    with pytest.raises(EvaluationError, match="16 dimensions"):
        evaluate_dimensions(eval_set, encoder, settings, [8, 32])


@pytest.mark.parametrize("block", [1, 7, 39, 40])
def test_a_corpus_in_blocks_gives_the_same_run(
    eval_set: EvalSet, settings: EvalSettings, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    whole = evaluate_retrieval(eval_set, NoisyEncoder(1.5), settings)
    monkeypatch.setattr(module, "DOCUMENTS_AT_A_TIME", block)
    monkeypatch.setattr(module, "RUN_DEPTH", 10)
    settings = settings.model_copy(update={"k_values": [1, 5, 10]})
    encoder = NoisyEncoder(1.5)
    seen: list[tuple[int, int]] = []
    blocks = evaluate_retrieval(
        eval_set, encoder, settings, lambda done, total, *_, **__: seen.append((done, total))
    )
    for query, found in blocks.run.items():
        best = sorted(whole.run[query].items(), key=lambda item: -item[1])[:10]
        assert found == dict(best)
    assert blocks.per_query["NDCG@10"].tolist() == whole.per_query["NDCG@10"].tolist()
    assert seen[-1] == (DOCUMENTS, DOCUMENTS)


def test_two_documents_of_one_id_are_an_error(eval_set: EvalSet, settings: EvalSettings) -> None:
    path = eval_set.beir / "corpus.jsonl"
    path.write_text(path.read_text() + path.read_text().splitlines()[0] + "\n")
    with pytest.raises(EvaluationError, match="two documents have the same _id"):
        evaluate_retrieval(eval_set, NoisyEncoder(1.0), settings)


@pytest.mark.slow
def test_scores_per_query_are_read_back_exactly(
    report: EvalReport, eval_set: EvalSet, settings: EvalSettings
) -> None:
    measured = evaluate_retrieval(eval_set, NoisyEncoder(1.5), settings)
    read_back = read_scores(report, "base")
    assert read_back.query_ids == measured.query_ids
    assert set(compare(measured, read_back, settings)) == set(measured.per_query)
    for name, values in measured.per_query.items():
        assert read_back.per_query[name].tolist() == values.tolist()
    with pytest.raises(EvaluationError, match="no model nim"):
        read_scores(report, "nim")


class Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.text: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


@pytest.mark.slow
def test_the_page_holds_everything_and_needs_nothing(report: EvalReport, settings: EvalSettings) -> None:
    page = Page()
    page.feed((report.path / "report.html").read_text("utf-8"))
    assert page.open == []
    assert len(page.sources) == 2
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)
    text = " ".join(" ".join(page.text).split())
    row = report.comparison()["metrics"]["NDCG@10"]
    for words in (
        f"{row['base']:.4f}",
        f"{row['delta']:+.4f}",
        f"{row['p_value']:.4f}",
        f"{row['detectable']:.4f}",
        "eval_set1",
        "b1",
        "f1",
        "By query type",
        "multi_hop",
        "The fine-tuned model is better: NDCG@10",
        "8 of 9, 3 epoch(s) in batches of 12",
        "0.9000 → 0.1000",
        "Queries that lost most",
        read(report, "changes.json")["gained"][0]["text"],
        str(settings.bootstrap_samples),
    ):
        assert words in text, words


@pytest.mark.parametrize(
    ("gains", "others", "digests", "tone", "messages"),
    [
        (
            [0.1, 0.2, 0.1, 0.2] * 9,
            0.0,
            "bf",
            "good",
            ["The fine-tuned model is better: NDCG@10 0.300 → 0.450"],
        ),
        ([0.1, 0.2, 0.1, 0.2] * 9, -0.1, "bf", "good", ["Significantly worse: MAP@10 -0.1000"]),
        ([-0.1, -0.2] * 9, 0.0, "bf", "bad", ["The fine-tuned model is worse"]),
        (
            [-0.1, 0.1] * 9,
            0.0,
            "bf",
            "even",
            ["No significant difference", "The minimum detectable gain of this eval set is"],
        ),
        ([0.0, 0.0] * 9, 0.0, "bb", "even", ["The checkpoint is the base model: nothing was trained"]),
    ],
)
def test_the_verdict_says_what_the_figures_say(
    settings: EvalSettings, gains: list[float], others: float, digests: str, tone: str, messages: list[str]
) -> None:
    names = tuple(f"q{n}" for n in range(len(gains)))
    base = {"NDCG@10": np.full(len(gains), 0.3), "MAP@10": np.full(len(gains), 0.3)}
    tuned = {"NDCG@10": base["NDCG@10"] + gains, "MAP@10": base["MAP@10"] + others}
    rows = compare(RetrievalScores(names, base, {}), RetrievalScores(names, tuned, {}), settings)
    metrics = {name: asdict(row) for name, row in rows.items()}
    comparison = {"metrics": metrics, "confidence": 0.95, "queries": len(gains)}
    found = verdict(comparison, "NDCG@10", {"base": digests[0], "finetuned": digests[1]})
    assert found.tone == tone
    text = " ".join([found.title, *found.lines])
    for words in messages:
        assert words in text
    assert ("Significantly worse" in text) == (others < 0)
