"""What the UI says of tables: their rows, counted by other means, and their columns."""

from __future__ import annotations

import json
from pathlib import Path

import dagster as dg
import lancedb
import pytest

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
    index = lancedb.connect(folder("vector_index") / "lancedb").open_table("passages")
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
