"""The evaluation report: results in the recipe's layout, comparison, runs, scores per query, details, an HTML page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assets_pkg.config.sections.evaluation import EvalSettings
from assets_pkg.evaluation.compare import LANGUAGE, compare, compare_slices
from assets_pkg.evaluation.errors import EvaluationError
from assets_pkg.evaluation.html_page import write_page
from assets_pkg.evaluation.plots import draw_bars, draw_dimensions, draw_gains, draw_slices
from assets_pkg.evaluation.questions import describe_questions
from assets_pkg.retrieval.metrics import FAMILIES, RetrievalScores, Run, main_metric, ranked
from resources.language import language_of
from storage.artifacts import EvalReport, EvalSet
from storage.files import write_json
from storage.formats.beir import BeirQuery, Qrels, best_judged, read_documents, read_qrels, read_queries

if TYPE_CHECKING:
    import pyarrow as pa

DECIMALS = 5
RECIPE_FAMILIES = FAMILIES[:4]

SHOWN_QUERIES = 10
"""Queries shown of those that gained, and of those that lost."""

SHOWN_PASSAGES = 3
"""Passages shown of each model's ranking."""

LONGEST_TEXT = 300
"""Characters of a passage."""


def write_eval_report(
    folder: Path,
    scores: Mapping[str, RetrievalScores],
    eval_set: EvalSet,
    digests: Mapping[str, str],
    settings: EvalSettings,
    dimensions: Mapping[str, Mapping[int, RetrievalScores]] | None = None,
    training: Mapping[str, Any] | None = None,
) -> None:
    """Write the report of the models in ``scores`` (``base``, ``finetuned``; either may be absent).

    - ``eval_results.json``: per model the list nDCG, MAP, Recall, Precision of maps ``NDCG@10: value``; ``mrr``
      by model; ``metadata`` with model and eval set digests and settings.
    - ``comparison.json``: ``metrics`` by name with base, finetuned, delta, low, high, p_value, wins, losses,
      ties, detectable; ``queries``, ``confidence``. Without both models ``metrics`` is empty.
    - ``per_query.parquet`` (query_id, model, one column per metric), ``runs/<model>.trec``, ``summary.json``,
      ``bars.png``.
    - Of both models: ``slices.json`` (the comparison on slices of the eval set), ``changes.json`` (the queries that
      gained and lost most), ``dimensions.json`` (the comparison of truncated vectors), and their pictures.
    - ``questions.json``: who wrote the questions, and what that means for the questions that people ask.
    - ``report.html``: all of it on one self-contained page.

    Args:
        digests: the model digest of each model in ``scores`` (others are ignored).
        dimensions: scores of truncated vectors, by model and length.
        training: the summary of the fine-tuned checkpoint, for the page, and the name of the base as ``base_model``.

    Raises:
        EvaluationError: no scores, or models evaluated on different queries.
    """
    if not scores:
        raise EvaluationError("nothing was measured: set eval.eval_base or eval.eval_finetuned to true")
    queries = len(next(iter(scores.values())).query_ids)
    differences = (
        compare(scores["base"], scores["finetuned"], settings) if {"base", "finetuned"} <= set(scores) else {}
    )
    metrics = {name: _rounded(asdict(difference)) for name, difference in differences.items()}
    comparison = {
        "queries": queries,
        "confidence": settings.confidence,
        "bootstrap_samples": settings.bootstrap_samples,
        "eval_set": eval_set.version,
        "metrics": metrics,
    }
    write_json(
        folder / "eval_results.json", _results(scores, eval_set, digests, settings), final_newline=True
    )
    write_json(folder / "comparison.json", comparison, final_newline=True)
    _write_per_query(folder / "per_query.parquet", scores)
    (folder / "runs").mkdir(exist_ok=True)
    for name, each in scores.items():
        write_trec_run(folder / "runs" / f"{name}.trec", each.run, name)
    write_json(folder / "summary.json", _summary(scores, metrics, queries), final_newline=True)
    draw_bars(scores, differences, settings, folder / "bars.png")
    if differences:
        _write_details(folder, scores["base"], scores["finetuned"], eval_set, settings)
        _write_dimensions(folder, dimensions or {}, settings)
    if training:
        write_json(folder / "training.json", training, final_newline=True)
    write_json(folder / "questions.json", describe_questions(eval_set, queries), final_newline=True)
    write_page(folder, settings)


def read_scores(report: EvalReport, model: str) -> RetrievalScores:
    """The scores per query of one model in a report, without the run.

    Raises:
        EvaluationError: the report does not include the model.
    """
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    table = pq.read_table(report.path / "per_query.parquet")
    own = table.filter(pc.field("model") == model)
    if not own.num_rows:
        raise EvaluationError(f"{report.path}: no model {model} was measured")
    names = [name for name in own.column_names if name not in ("query_id", "model")]
    per_query = {name: own.column(name).to_numpy() for name in names}
    query_ids = tuple(map(str, own.column("query_id").to_pylist()))
    return RetrievalScores(query_ids, per_query, {}, eval_set=report.comparison()["eval_set"])


def read_run(report: EvalReport, model: str) -> dict[str, list[tuple[str, float]]]:
    """The run of one model in a report: (document, score) by query, best first."""
    found: dict[str, list[tuple[str, float]]] = {}
    with (report.path / "runs" / f"{model}.trec").open(encoding="utf-8") as stream:
        for line in stream:
            query, _, document, _, score, _ = line.split()
            found.setdefault(query, []).append((document, float(score)))
    return found


def _write_details(
    folder: Path,
    base: RetrievalScores,
    finetuned: RetrievalScores,
    eval_set: EvalSet,
    settings: EvalSettings,
) -> None:
    metric = main_metric("NDCG", settings.k_values)
    qrels = read_qrels(eval_set.beir)
    queries = with_languages({each.query_id: each for each in read_queries(eval_set.beir)}, eval_set, qrels)
    slices = compare_slices(
        base, finetuned, queries, [metric, main_metric("Recall", settings.k_values)], settings
    )
    rows = [
        {"kind": each.kind, "value": each.value, "queries": each.queries, "metric": each.metric}
        | _rounded(asdict(each.difference))
        for each in slices
    ]
    write_json(folder / "slices.json", rows, final_newline=True)
    texts = {query_id: each.text for query_id, each in queries.items()}
    changes = largest_changes(base, finetuned, metric, eval_set, texts, qrels)
    listed = {side: [_rounded(asdict(change)) for change in chosen] for side, chosen in changes.items()}
    write_json(folder / "changes.json", {"metric": metric, **listed}, final_newline=True)
    draw_gains(finetuned.per_query[metric] - base.per_query[metric], metric, folder / "gains.png")
    if shown := [row for row in rows if row["metric"] == metric]:
        draw_slices(shown, metric, folder / "slices.png")


def with_languages(queries: Mapping[str, BeirQuery], eval_set: EvalSet, qrels: Qrels) -> dict[str, BeirQuery]:
    """``queries``, each with the language of the passage that answers it best, unless its metadata have one: of a
    question's few words it is often not sure."""
    best = {name: best_judged(judged) for name, judged in qrels.items() if judged}
    wanted = set(best.values())
    languages = {
        each.doc_id: language_of(each.joined)
        for each in read_documents(eval_set.beir)
        if each.doc_id in wanted
    }
    return {
        name: replace(each, metadata={LANGUAGE: languages[best[name]], **each.metadata})
        if best.get(name) in languages
        else each
        for name, each in queries.items()
    }


def _write_dimensions(
    folder: Path, dimensions: Mapping[str, Mapping[int, RetrievalScores]], settings: EvalSettings
) -> None:
    """The comparison at each number of dimensions of both models; nothing for the full one alone."""
    both = sorted(set(dimensions.get("base", {})) & set(dimensions.get("finetuned", {})))
    if len(both) < 2:
        return
    metric = main_metric("NDCG", settings.k_values)
    rows = [
        {"dimensions": each, "metric": metric}
        | _rounded(asdict(compare(dimensions["base"][each], dimensions["finetuned"][each], settings)[metric]))
        for each in both
    ]
    write_json(folder / "dimensions.json", rows, final_newline=True)
    draw_dimensions(rows, metric, folder / "dimensions.png")


@dataclass(frozen=True)
class Hit:
    """One passage in a ranking; ``relevant`` by the eval set's judgements."""

    doc_id: str
    rank: int
    relevant: bool
    text: str


@dataclass(frozen=True)
class Change:
    """One query whose score changed. ``before`` and ``after``: the best passages of base and fine-tuned model, and the
    best relevant one if its rank is lower."""

    query_id: str
    text: str
    base: float
    finetuned: float
    before: tuple[Hit, ...]
    after: tuple[Hit, ...]


def largest_changes(
    base: RetrievalScores,
    finetuned: RetrievalScores,
    metric: str,
    eval_set: EvalSet,
    texts: Mapping[str, str],
    qrels: Qrels,
) -> dict[str, list[Change]]:
    """``gained`` and ``lost``: at most ten queries each, the largest change first.

    Args:
        texts: of queries, by id.
    """
    gains = dict(zip(base.query_ids, finetuned.per_query[metric] - base.per_query[metric], strict=True))
    sides = {
        "gained": sorted((q for q in gains if gains[q] > 0), key=lambda q: (-gains[q], q))[:SHOWN_QUERIES],
        "lost": sorted((q for q in gains if gains[q] < 0), key=lambda q: (gains[q], q))[:SHOWN_QUERIES],
    }
    shown = {
        (query, number): _shown(model.run.get(query, {}), qrels[query])
        for side in sides.values()
        for query in side
        for number, model in enumerate((base, finetuned))
    }
    passages = _passages(eval_set, {doc_id for ranking in shown.values() for doc_id, _ in ranking})
    row = {query: number for number, query in enumerate(base.query_ids)}

    def hits(query: str, number: int) -> tuple[Hit, ...]:
        return tuple(
            Hit(doc_id, rank, qrels[query].get(doc_id, 0) > 0, passages[doc_id])
            for doc_id, rank in shown[query, number]
        )

    return {
        side: [
            Change(
                query,
                texts[query],
                float(base.per_query[metric][row[query]]),
                float(finetuned.per_query[metric][row[query]]),
                hits(query, 0),
                hits(query, 1),
            )
            for query in chosen
        ]
        for side, chosen in sides.items()
    }


def _shown(found: Mapping[str, float], judged: Mapping[str, int]) -> list[tuple[str, int]]:
    """(document, rank) of the first passages, and of the first relevant one."""
    order = [(doc_id, rank) for rank, (doc_id, _) in enumerate(ranked(found), start=1)]
    relevant = [(doc_id, rank) for doc_id, rank in order if judged.get(doc_id, 0) > 0]
    return order[:SHOWN_PASSAGES] + [each for each in relevant[:1] if each[1] > SHOWN_PASSAGES]


def _passages(eval_set: EvalSet, wanted: set[str]) -> dict[str, str]:
    texts = ((each.doc_id, each.joined) for each in read_documents(eval_set.beir) if each.doc_id in wanted)
    return {doc_id: _shortened(text) for doc_id, text in texts}


def _shortened(text: str) -> str:
    one_line = " ".join(text.split())
    return one_line if len(one_line) <= LONGEST_TEXT else one_line[: LONGEST_TEXT - 3] + "..."


def write_trec_run(path: Path, run: Run, tag: str) -> None:
    """A run in trec_eval's format: ``query Q0 document rank score tag``."""
    with path.open("w", encoding="utf-8", newline="\n") as stream:
        for query_id, found in run.items():
            for rank, (doc_id, score) in enumerate(ranked(found), start=1):
                stream.write(f"{query_id} Q0 {doc_id} {rank} {score:.6f} {tag}\n")


def _results(
    scores: Mapping[str, RetrievalScores],
    eval_set: EvalSet,
    digests: Mapping[str, str],
    settings: EvalSettings,
) -> dict[str, Any]:
    results: dict[str, Any] = {
        name: [_family(each, family) for family in RECIPE_FAMILIES] for name, each in scores.items()
    }
    results["mrr"] = {name: _family(each, "MRR") for name, each in scores.items()}
    results["metadata"] = {
        "eval_set": eval_set.version,
        "models": {name: digests[name] for name in scores},
        "queries": len(next(iter(scores.values())).query_ids),
        "k_values": sorted(set(settings.k_values)),
        "score": "dot",
    }
    return results


def _family(scores: RetrievalScores, family: str) -> dict[str, float]:
    means = scores.means()
    return {name: round(value, DECIMALS) for name, value in means.items() if name.startswith(f"{family}@")}


def _summary(
    scores: Mapping[str, RetrievalScores], metrics: Mapping[str, Mapping[str, Any]], queries: int
) -> dict[str, Any]:
    """Flat figures, which the UI plots over time."""
    summary: dict[str, Any] = {"queries": queries}
    for model, each in scores.items():
        summary |= {f"{model}_{name}": round(value, DECIMALS) for name, value in each.means().items()}
    summary |= {f"delta_{name}": row["delta"] for name, row in metrics.items()}
    return summary


def _rounded(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: round(value, DECIMALS) if isinstance(value, float) else value for name, value in row.items()
    }


def _write_per_query(path: Path, scores: Mapping[str, RetrievalScores]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.concat_tables(_table(name, each) for name, each in scores.items()), path)


def _table(model: str, scores: RetrievalScores) -> pa.Table:
    import pyarrow as pa

    columns: dict[str, Any] = {
        "query_id": list(scores.query_ids),
        "model": [model] * len(scores.query_ids),
        **scores.per_query,
    }
    return pa.table(columns)
