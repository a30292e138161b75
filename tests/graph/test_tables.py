"""What is said of a run: the rows of its tables, counted by other means, their columns, and what was reused."""

from __future__ import annotations

import io
import json
import re
import shutil
from pathlib import Path

import dagster as dg
import pytest

from assets_pkg.automation.execute import run_assets
from assets_pkg.cli.common import Terminal
from assets_pkg.cli.summary import show_run
from resources.vector_store.lance_import import import_lancedb
from tests.graph.harness import Project


def test_tables_have_their_row_counts_and_columns(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project.profile_path.parent)

    def shown(asset: str, key: str) -> object:
        event = project.instance.get_latest_materialization_event(dg.AssetKey(asset))
        assert event is not None
        assert event.asset_materialization is not None
        return event.asset_materialization.metadata[f"dagster/{key}"].value

    def folder(asset: str) -> Path:
        event = project.instance.get_latest_materialization_event(dg.AssetKey(asset))
        return Path(str(event.asset_materialization.metadata["path"].value))

    assert shown("raw_corpus", "row_count") == len(list(Path("documents").iterdir()))
    index = import_lancedb().connect(folder("vector_index") / "lancedb").open_table("passages")
    for asset in ("passages", "corpus_embeddings", "vector_index"):
        assert shown(asset, "row_count") == index.count_rows()
    lines = (folder("eval_set") / "eval_beir/queries.jsonl").read_text("utf-8").splitlines()
    assert shown("eval_set", "row_count") == len(lines)
    for asset, file in (
        ("training_set", "train.json"),
        ("mined_train_set", "train_mined.automodel.json"),
    ):
        assert shown(asset, "row_count") == len(json.loads((folder(asset) / file).read_text("utf-8"))["data"])
    for asset in ("raw_corpus", "passages", "corpus_embeddings"):
        schema = shown(asset, "column_schema")
        assert isinstance(schema, dg.TableSchema)
    assert next((each.name, each.type) for each in schema.columns) == ("passage_id", "string")


def test_a_run_says_what_it_made_and_what_it_took_from_before(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project.profile_path.parent)

    def said(assets: list[str], fresh: int) -> str:
        run = run_assets(project.defs, project.instance, assets)
        assert run.succeeded
        out = io.StringIO()
        show_run(Terminal(file=out, width=200), project.instance, run.run_id, fresh)
        return out.getvalue()

    again = said(["raw_corpus", "passages"], 3)
    kept = r"2 as they were made before from the same inputs \(raw_corpus, passages\), 3 up to date"
    assert re.search(rf"0 assets made in [\d.]+ s, {kept}", again), again
    assert "next" not in again
    Path("documents/new.md").write_text("# New\n\n" + "A sentence about the new kiln. " * 8)
    anew = said(["raw_corpus", "passages", "promoted_model"], 0)
    assert re.search(r"3 assets made in [\d.]+ s\n", anew), anew
    assert anew.rstrip().endswith("retune run --to reindex")


def test_the_search_that_the_documentation_shows(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(project.profile_path.parent)
    shutil.copy(project.profile_path, "retune.yaml")
    page = (Path(__file__).parents[2] / "docs/search.md").read_text("utf-8")
    (snippet,) = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    exec(snippet, {})
    printed = capsys.readouterr().out
    assert printed.split()[1] == project.version("promoted_model")
    assert printed.count("', '") == 4, "five hits"
