"""What a run left behind, in words and figures for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import dagster as dg
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from assets_pkg.door import ARTIFACT_KEY
from assets_pkg.profile import Profile
from storage.artifacts import EvalReport, VectorIndex
from storage.opening import open_store

SHOWN_METRICS = ("NDCG@10", "Recall@10", "MRR@10", "MAP@10")


def show_summary(console: Console, instance: dg.DagsterInstance, profile: Profile) -> None:
    """Print the measurement, the decision, the server and the index, as far as they exist."""
    store = open_store(profile.artifact_root)
    shown = {
        name: _latest(instance, name)
        for name in ("eval_metrics", "promoted_model", "running_nim", "vector_index")
    }
    if report := shown["eval_metrics"]:
        _show_measurement(console, store.get(EvalReport, *_artifact(report)))
    if promoted := shown["promoted_model"]:
        decision = escape(str(promoted.metadata["decision"].value))
        console.print(f"[bold]model[/]    {decision}", highlight=False)
    if server := shown["running_nim"]:
        console.print(f"[bold]server[/]   {server.metadata['url'].value} (stop it: retune deploy --stop)")
    if index := shown["vector_index"]:
        described = store.get(VectorIndex, *_artifact(index)).describe()
        console.print(
            f"[bold]index[/]    {described['rows']:,} passages x {described['dimensions']} dimensions, "
            f"{described['index']}, by model {described['model_digest']}"
        )
    console.print(f"[bold]files[/]    {store.place}", highlight=False)
    if store.place != str(store.root):
        console.print(f"         this machine's copy: {store.root}", highlight=False)


def show_places(console: Console, instance: dg.DagsterInstance, assets: Sequence[str]) -> None:
    """Print where the latest version of each asset lies."""
    for name in assets:
        if made := _latest(instance, name):
            console.print(f"[bold]{name}[/]  {made.metadata['path'].value}", highlight=False)


def _show_measurement(console: Console, report: EvalReport) -> None:
    comparison = report.comparison()
    metrics: dict[str, dict[str, Any]] = comparison["metrics"]
    if not metrics:
        return
    table = Table(
        title=f"base and fine-tuned on {comparison['queries']} held-out questions",
        title_justify="left",
        box=None,
    )
    for column in ("metric", "base", "tuned", "gain", f"{comparison['confidence']:.0%} interval", "won/lost"):
        table.add_column(column, justify="right" if column != "metric" else "left")
    for name in (name for name in SHOWN_METRICS if name in metrics):
        row = metrics[name]
        table.add_row(
            name,
            f"{row['base']:.4f}",
            f"{row['finetuned']:.4f}",
            f"{row['delta']:+.4f}",
            f"[{row['low']:+.4f}, {row['high']:+.4f}]",
            f"{row['wins']}/{row['losses']}",
        )
    console.print(table)
    console.print(f"[bold]report[/]   {report.path / 'report.html'}", highlight=False)


def _latest(instance: dg.DagsterInstance, asset: str) -> dg.AssetMaterialization | None:
    event = instance.get_latest_materialization_event(dg.AssetKey(asset))
    return event.asset_materialization if event else None


def _artifact(materialization: dg.AssetMaterialization) -> tuple[str, str]:
    asset, _, version = str(materialization.metadata[ARTIFACT_KEY].value).partition("/")
    return asset, version
