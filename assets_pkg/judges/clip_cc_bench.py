"""The result files of CLIP-CC-Bench, so that its tools and tables read ours.

``embedding_models/individual_results/{csv,json}/<judge>/<captioner>``,
``embedding_models/aggregated_results/<judge>/<captioner>.json``, ``.../aggregated_results.csv``,
``.../cross_decoder_stats.json``; ``ranking/vlm_overall_ranking.csv`` and ``vlm_per_judge_metrics.csv``.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from assets_pkg.judges.captions import CaptionSet
from assets_pkg.judges.ranking import RankedCaptioner
from assets_pkg.judges.scoring import CaptionScore, Scores
from storage.files import write_json

Metric = Callable[[CaptionScore], float]
ROOT = "embedding_models"


def write_results(folder: Path, scores: Mapping[str, Scores], captions: CaptionSet) -> None:
    """Individual and aggregated results of every judge."""
    now = datetime.now(UTC).isoformat()
    summaries: dict[str, dict[str, Any]] = {}
    for judge, by_captioner in scores.items():
        for name, by_clip in by_captioner.items():
            _write_individual(folder / ROOT / "individual_results", judge, name, by_clip, captions)
            summary = summarise(judge, name, list(by_clip.values()), now)
            summaries.setdefault(name, {})[judge] = summary
            write_json(folder / ROOT / "aggregated_results" / judge / f"{name}.json", summary, indent=2)
    _write_aggregated(folder / ROOT / "aggregated_results", summaries)


def summarise(judge: str, captioner: str, scores: Sequence[CaptionScore], now: str) -> dict[str, Any]:
    """One captioner under one judge, rounded as in the origin (std with ddof 0)."""

    def stats(metric: Metric) -> dict[str, float]:
        import numpy as np

        values = [metric(score) for score in scores]
        figures = {"mean": np.mean(values), "std": np.std(values), "min": min(values), "max": max(values)}
        return {name: round(float(value), 6) for name, value in figures.items()}

    return {
        "decoder_name": judge,
        "embedding_model_name": judge,
        "model_name": captioner,
        "total_evaluations": len(scores),
        "successful_evaluations": len(scores),
        "error_rate": 0.0,
        "coarse_grained_stats": stats(lambda score: score.coarse),
        "timestamp": now,
        "fine_grained_stats": {
            "precision": stats(lambda score: score.precision),
            "recall": stats(lambda score: score.recall),
            "f1": stats(lambda score: score.f1),
        },
        "hybrid_stats": {"hm_cf": stats(lambda score: score.hm_cf)},
    }


def write_ranking(folder: Path, ranking: Sequence[RankedCaptioner], scores: Mapping[str, Scores]) -> None:
    """The two tables of the ranking."""
    overall = [["Rank", "VLM", "Borda", "MeanJudge", "StdJudge"]]
    for row in ranking:
        std = "" if row.std is None else f"{row.std:.2f}"
        overall.append([str(row.rank), row.captioner, str(row.points), f"{row.mean:.2f}", std])
    _write_csv(folder / "vlm_overall_ranking.csv", overall)
    _write_csv(folder / "vlm_per_judge_metrics.csv", _per_judge(scores))


def _per_judge(scores: Mapping[str, Scores]) -> list[list[str]]:
    """Two header rows, as pandas writes them; every cell mean±std."""
    judges = sorted(scores)
    metrics: dict[str, Metric] = {
        "coarse_grained": lambda score: score.coarse,
        "fine_grained_f1": lambda score: score.f1,
        "harmonic_mean_cf": lambda score: score.hm_cf,
    }
    top = ["", "", *(judge for judge in judges for _ in metrics)]
    second = ["", "vlm", *(name for _ in judges for name in metrics)]
    rows = [top, second]
    for number, captioner in enumerate(sorted(scores[judges[0]])):
        cells = [
            _spread([metric(score) for score in scores[judge][captioner].values()])
            for judge in judges
            for metric in metrics.values()
        ]
        rows.append([str(number), captioner, *cells])
    return rows


def _spread(values: Sequence[float]) -> str:
    import numpy as np

    return f"{np.mean(values):.2f}±{np.std(values):.2f}"


def _write_individual(
    folder: Path, judge: str, captioner: str, scores: Mapping[str, CaptionScore], captions: CaptionSet
) -> None:
    rows: list[list[Any]] = [
        ["video_id", "coarse_similarity", "fine_precision", "fine_recall", "fine_f1", "hm_cf"]
    ]
    document: dict[str, Any] = {}
    for clip, score in scores.items():
        figures = [score.coarse, score.precision, score.recall, score.f1, score.hm_cf]
        rows.append([clip, *(round(value, 4) for value in figures)])
        reference, candidate = captions.references[clip], captions.predictions[captioner][clip]
        document[clip] = {
            "reference": reference,
            "candidate": candidate,
            "reference_length": len(reference),
            "candidate_length": len(candidate),
            "similarity_data": _similarity(score),
        }
    _write_csv(folder / "csv" / judge / f"{captioner}.csv", rows)
    write_json(folder / "json" / judge / f"{captioner}.json", document, indent=2)


def _similarity(score: CaptionScore) -> dict[str, Any]:
    return {
        "coarse_grained": {"cosine_similarity": score.coarse, "normalized_cosine": score.coarse},
        "fine_grained": {
            "precision": score.precision,
            "recall": score.recall,
            "f1_score": score.f1,
            "num_gt_chunks": score.reference_sentences,
            "num_pred_chunks": score.caption_sentences,
        },
        "hybrid": {"hm_cf": score.hm_cf},
        "metadata": {"success": True, "error_message": "", "is_fallback_score": False},
    }


def _write_aggregated(folder: Path, summaries: Mapping[str, Mapping[str, Any]]) -> None:
    judges = sorted({judge for by_judge in summaries.values() for judge in by_judge})
    columns = [f"{judge}_{name}" for judge in judges for name in ("coarse", "fine_f1", "hm_cf")]
    rows: list[list[str]] = [["Model Name", *columns]]
    crossed: dict[str, Any] = {}
    for name in sorted(summaries):
        cells, compared = [], {}
        for judge in judges:
            summary = summaries[name][judge]
            fine, hybrid = summary["fine_grained_stats"], summary["hybrid_stats"]
            means = [summary["coarse_grained_stats"], fine["f1"], hybrid["hm_cf"]]
            cells += [f"{stats['mean']:.4f}" for stats in means]
            compared[judge] = {
                "coarse_grained": summary["coarse_grained_stats"],
                "fine_grained": fine,
                "hybrid": hybrid,
            }
        rows.append([name, *cells])
        crossed[name] = {"decoder_comparisons": compared}
    _write_csv(folder / "aggregated_results.csv", rows)
    write_json(folder / "cross_decoder_stats.json", crossed, indent=2)


def _write_csv(path: Path, rows: Iterable[Sequence[Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows(rows)
