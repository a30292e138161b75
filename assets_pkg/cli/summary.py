"""The results of a run as text and tables for a terminal."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import dagster as dg
from rich.console import Console
from rich.table import Table

from assets_pkg.cli.common import plain
from assets_pkg.config.profile import Profile
from assets_pkg.image_text.report import MAIN
from assets_pkg.judges.published import Placed
from assets_pkg.judges.report import shown_placed, shown_ranking, unread
from assets_pkg.orchestration.history import REUSED_KEY, ArtifactRef, artifact_ref, latest
from storage.artifacts import (
    EvalReport,
    ImageTextReport,
    ImageTextScores,
    JudgeRanking,
    JudgeScores,
    SearchChoice,
    VectorIndex,
)
from storage.progress import duration
from storage.remote_store import open_store

SHOWN_METRICS = ("NDCG@10", "Recall@10", "MRR@10", "MAP@10")
MODEL_WORDS = {"base": "base", "finetuned": "tuned"}
NAMES = ("metric", "captioner", "from", "model", "condition")
"""Columns of text, which are aligned to the left."""


def show_summary(
    console: Console, instance: dg.DagsterInstance, profile: Profile, assets: Sequence[str]
) -> None:
    """Print the measurement, promotion, search method, server and index, those of them that are among ``assets``."""
    store = open_store(profile.artifact_root)
    shown = {name: made for name in assets if (made := latest(instance, name, store))}
    for name, show in SHOWN_REPORTS.items():
        if report := shown.get(name):
            show(console, store.get(EvalReport, *_artifact(report)))
    if promoted := shown.get("promoted_model"):
        decision = plain(promoted.metadata["decision"].value)
        console.print(f"[bold]model[/]    {decision}", highlight=False)
    if chosen := shown.get("search_method"):
        _show_search_method(console, store.get(SearchChoice, *_artifact(chosen)).describe())
    if server := shown.get("running_nim"):
        console.print(
            f"[bold]server[/]   {plain(server.metadata['url'].value)} (stop it: retune deploy --stop)"
        )
    if index := shown.get("vector_index"):
        described = store.get(VectorIndex, *_artifact(index)).describe()
        console.print(
            f"[bold]index[/]    {described['rows']:,} passages x {described['dimensions']} dimensions, "
            f"{plain(described['index'])}, by model {described['model_digest']}"
        )
    console.print(f"[bold]files[/]    {plain(store.location)}", highlight=False)
    if store.location != str(store.root):
        console.print(f"         this machine's copy: {plain(store.root)}", highlight=False)


def show_run(console: Console, instance: dg.DagsterInstance, run_id: str, fresh: int) -> None:
    """Print what a run made, what it took from before, how long that took, and the command that comes next.

    Args:
        fresh: assets that did not have to run.
    """
    record = instance.get_run_record_by_id(run_id)
    events = instance.all_logs(run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION)
    happened = [event.asset_materialization for event in events if event.asset_materialization]
    reused = [
        each.asset_key.to_user_string()
        for each in happened
        if REUSED_KEY in each.metadata and each.metadata[REUSED_KEY].value
    ]
    took = ""
    if record is not None and record.start_time and record.end_time:
        took = f" in {duration(record.end_time - record.start_time)}"
    made = len(happened) - len(reused)
    parts = [f"{made} {'asset' if made == 1 else 'assets'} made{took}"]
    if reused:
        parts.append(f"{len(reused)} as they were made before from the same inputs ({', '.join(reused)})")
    if fresh:
        parts.append(f"{fresh} up to date")
    console.print(f"[bold]run[/]      {plain(', '.join(parts))}", highlight=False)
    names = {each.asset_key.to_user_string() for each in happened}
    if "vector_index" in names:
        console.print('[bold]next[/]     retune search "..."', highlight=False)
    elif "promoted_model" in names:
        console.print("[bold]next[/]     retune run --to reindex", highlight=False)


def show_benchmarks(
    console: Console, instance: dg.DagsterInstance, profile: Profile, assets: Sequence[str]
) -> None:
    """Print the results of the benchmarks among ``assets``, and the folder of each asset's latest version."""
    store = open_store(profile.artifact_root)
    found = {name: event for name in assets if (event := latest(instance, name, store))}
    if {"judge_scores", "judge_ranking"} <= found.keys():
        _show_ranking(console, store.get(JudgeRanking, *_artifact(found["judge_ranking"])))
        scores = store.get(JudgeScores, *_artifact(found["judge_scores"]))
        _show_skipped(console, scores.skipped())
        _show_page(console, found["judge_ranking"])
        for line in unread(scores, scores.scores()["judges"]):
            console.print(f"[yellow]not read[/] {plain(line)}", highlight=False)
    if {"image_text_scores", "image_text_report"} <= found.keys():
        _show_image_text(console, store.get(ImageTextReport, *_artifact(found["image_text_report"])))
        _show_skipped(console, store.get(ImageTextScores, *_artifact(found["image_text_scores"])).skipped())
        _show_page(console, found["image_text_report"])
    for name, event in found.items():
        console.print(f"[bold]{name}[/]  {plain(event.metadata['path'].value)}", highlight=False)


def _show_ranking(console: Console, ranking: JudgeRanking) -> None:
    document = ranking.ranking()
    rows = shown_ranking(document["ranking"], document["confidence"])
    judges = ", ".join(document["judges"])
    _show_table(console, f"captions of {document['clips']} clips, judged by {judges}", rows)
    for tie in document.get("ties", []):
        console.print(plain(tie), highlight=False)
    if beside := document.get("beside_published"):
        placed = shown_placed(Placed(**row) for row in beside)
        _show_table(console, "beside published captioners", placed)


def _show_image_text(console: Console, report: ImageTextReport) -> None:
    document = report.report()
    figures: dict[tuple[str, str], dict[str, Any]] = {}
    for each in document["measured"]:
        figures.setdefault((each["model"], each["condition"]), {})[each["metric"]] = each
    recall = next(each["metric"] for each in document["measured"] if each["metric"].endswith("t2i"))
    rows = [
        {
            "model": model,
            "condition": condition,
            recall: f"{metrics[recall]['value']:.4f}",
            MAIN: f"{metrics[MAIN]['value']:.4f}",
            f"{document['confidence']:.0%} interval": f"[{metrics[MAIN]['low']:.4f}, {metrics[MAIN]['high']:.4f}]",
        }
        for (model, condition), metrics in figures.items()
    ]
    _show_table(console, f"images retrieved by {document['pairs']:,} texts", rows)
    if captioner := document.get("captioner"):
        console.print(f"[bold]captions[/] {captioner}", highlight=False)


def _show_table(console: Console, title: str, rows: Sequence[Mapping[str, str]]) -> None:
    table = Table(title=plain(title), title_justify="left", box=None)
    for column in rows[0]:
        table.add_column(plain(column), justify="left" if column in NAMES else "right")
    for row in rows:
        table.add_row(*map(plain, row.values()))
    console.print(table)


def _show_skipped(console: Console, skipped: Mapping[str, str]) -> None:
    for name, reason in skipped.items():
        console.print(f"[yellow]left out[/] {plain(name)}: {plain(reason)}", highlight=False)


def _show_page(console: Console, made: dg.AssetMaterialization) -> None:
    if page := made.metadata.get("report"):
        console.print(f"[bold]report[/]   {plain(page.value)}", highlight=False, soft_wrap=True)


def _show_measurement(console: Console, report: EvalReport) -> None:
    comparison = report.comparison()
    metrics: dict[str, dict[str, Any]] = comparison["metrics"]
    if not metrics:
        return
    usual = {name: metrics[name] for name in SHOWN_METRICS if name in metrics}
    rows = [
        {
            "metric": name,
            "base": f"{row['base']:.4f}",
            "tuned": f"{row['finetuned']:.4f}",
            "gain": f"{row['delta']:+.4f}",
            f"{comparison['confidence']:.0%} interval": f"[{row['low']:+.4f}, {row['high']:+.4f}]",
            "won/lost": f"{row['wins']}/{row['losses']}",
        }
        for name, row in (usual or metrics).items()
    ]
    questions = report.questions()
    by = f", {questions['by']}" if questions.get("meaning") else ""
    _show_table(console, f"base and fine-tuned on {comparison['queries']} held-out questions{by}", rows)
    if questions.get("meaning"):
        console.print(f"[dim]{plain(questions['meaning'])}[/]", highlight=False)
    console.print(f"[bold]report[/]   {plain(report.path / 'report.html')}", highlight=False)


def _show_single_model(console: Console, report: EvalReport) -> None:
    results = report.results()
    (name,) = results["metadata"]["models"]
    means: dict[str, float] = dict(results["mrr"][name])
    for family in results[name]:
        means |= family
    usual = {metric: means[metric] for metric in SHOWN_METRICS if metric in means}
    rows = [
        {"metric": metric, MODEL_WORDS[name]: f"{value:.4f}"} for metric, value in (usual or means).items()
    ]
    _show_table(console, f"{results['metadata']['queries']} held-out questions", rows)
    console.print(
        "one model alone: it is not compared, and nothing is promoted (both: retune eval)", highlight=False
    )


def _show_drift(console: Console, report: EvalReport) -> None:
    drift: list[dict[str, Any]] = report.results()["metadata"]["nim_drift"]
    usual = [row for row in drift if row["metric"] in SHOWN_METRICS]
    rows = [
        {
            "metric": row["metric"],
            "checkpoint": f"{row['checkpoint']:.4f}",
            "served": f"{row['nim']:.4f}",
            "drift": f"{row['drift']:+.4f}",
            "tolerance": f"{row['tolerance']:g}",
        }
        for row in usual or drift
    ]
    _show_table(console, "the eval set through the server, and its checkpoint's figures", rows)
    outside = [row["metric"] for row in drift if not row["within"]]
    verdict = f"out of tolerance: {', '.join(outside)}" if outside else "every metric is within its tolerance"
    console.print(f"[bold]drift[/]    {verdict}", highlight=False)


SHOWN_REPORTS: dict[str, Callable[[Console, EvalReport], None]] = {
    "eval_metrics": _show_measurement,
    "single_model_metrics": _show_single_model,
    "nim_eval_metrics": _show_drift,
}


def _show_search_method(console: Console, chosen: Mapping[str, Any]) -> None:
    gain, shown = chosen["gain"], f"{chosen['method']}: {chosen['reason']}"
    if gain:
        interval = f"[{gain['low']:+.4f}, {gain['high']:+.4f}]"
        shown += f" (NDCG@10 {gain['base']:.4f} -> {gain['finetuned']:.4f}, {gain['delta']:+.4f} {interval})"
    console.print(f"[bold]search[/]   {plain(shown)}", highlight=False)


def _artifact(made: dg.AssetMaterialization) -> ArtifactRef:
    recorded = artifact_ref(made)
    assert recorded is not None
    return recorded
