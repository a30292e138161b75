"""A look before the run, and pairs that the user brings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from material import KEY, HashEncoder, generate, make_corpus, sdg_settings
from scripted_endpoint import ScriptedEndpoint

from assets_pkg.sdg.llm import chat_config, preview
from assets_pkg.sdg.own_pairs import SimpleRow, _group, load_own_pairs
from resources.chat_model.client import ChatModel
from storage.formats.qa_records import RecordError, SourceRecord, read_records


@pytest.mark.slow
def test_a_preview_asks_little_and_the_run_asks_only_the_rest(
    endpoint: ScriptedEndpoint, tmp_path: Path
) -> None:
    artifacts, settings = make_corpus(tmp_path / "in", 20), sdg_settings(endpoint.base_url)
    chat = ChatModel(chat_config(settings, tmp_path / "answers.sqlite"), KEY)
    shown = preview(*artifacts, settings, chat, HashEncoder(), documents=2)
    assert [record.source_id for record in shown.records] == ["doc00000.txt", "doc00001.txt"]
    assert all(len(record.deduplicated_qa_pairs) == 7 for record in shown.records)
    assert shown.usage.calls == endpoint.stats()["requests"] == 6
    assert {path.name for path in tmp_path.iterdir()} == {"in", "answers.sqlite"}
    folder = generate(artifacts, settings, tmp_path / "out")
    assert endpoint.stats()["requests"] == 60
    assert list(read_records(folder / "qa_records.jsonl"))[:2] == shown.records


# ---- own pairs ---------------------------------------------------------------------------------------------


def loaded(path: Path, folder: Path) -> list[SourceRecord]:
    folder.mkdir(exist_ok=True)
    load_own_pairs(path, folder)
    return list(read_records(folder / "qa_records.jsonl"))


def without_origins(records: list[SourceRecord]) -> list[SourceRecord]:
    for record in records:
        for pair in record.deduplicated_qa_pairs:
            assert pair.origin
            pair.origin = None
    return records


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    else:
        path.write_text(json.dumps(rows))
    return path


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".parquet"])
def test_records_of_the_recipe_come_back_as_they_are(
    endpoint: ScriptedEndpoint, tmp_path: Path, suffix: str
) -> None:
    folder = generate(make_corpus(tmp_path / "in", 3), sdg_settings(endpoint.base_url), tmp_path / "out")
    made = list(read_records(folder / "qa_records.jsonl"))
    rows = [record.model_dump(mode="json") for record in made]
    rows[0]["file_name"] = rows[0]["file_name"] if suffix == ".parquet" else rows[0]["file_name"][0]
    location = "mine.jsonl:2" if suffix == ".jsonl" else f"mine{suffix}: row 2"
    own = loaded(write(tmp_path / f"mine{suffix}", rows), tmp_path / "own")
    assert [pair.origin for pair in own[1].deduplicated_qa_pairs][:2] == [
        f"{location}, pair {n}" for n in (1, 2)
    ]
    assert without_origins(own) == made
    assert without_origins(loaded(folder, tmp_path / "own")) == made
    assert without_origins(loaded(folder / "generation_result.json", tmp_path / "own")) == made
    summary = json.loads((tmp_path / "own" / "summary.json").read_text())
    assert (summary["records"], summary["pairs"]) == (3, 21)
    assert summary["source"].endswith("generation_result.json")


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".parquet"])
def test_simple_rows_become_records(tmp_path: Path, suffix: str) -> None:
    rows = [
        {"question": "Q1?", "positives": ["A", "B"], "negatives": ["N", "C"], "answer": "yes", "score": 8},
        {"question": "Q2?", "positives": ["C"], "negatives": None, "answer": None, "score": None},
        {"question": "Q3?", "positives": ["B"], "negatives": None, "answer": None, "score": None},
    ]
    first, second = loaded(write(tmp_path / f"mine{suffix}", rows), tmp_path / "own")
    assert [chunk.text for chunk in first.chunks] == ["A", "B", "N"]
    assert [(pair.question, pair.segment_ids) for pair in first.deduplicated_qa_pairs] == [
        ("Q1?", [1, 2]),
        ("Q3?", [2]),
    ]
    assert [one.overall.score for one in first.qa_evaluations.evaluations] == [8, 10]
    assert first.deduplicated_qa_pairs[0].answer == "yes"
    location = "mine.jsonl:3" if suffix == ".jsonl" else f"mine{suffix}: row 3"
    assert first.deduplicated_qa_pairs[1].origin == location
    assert [chunk.text for chunk in second.chunks] == ["C"]
    assert first.source_id != second.source_id
    assert first.generator == "own pairs"


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(st.integers(0, 15), min_size=1, max_size=4), max_size=12))
def test_rows_are_grouped_by_the_connected_components_of_their_passages(rows: list[list[int]]) -> None:
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    simple = [
        SimpleRow(question=f"q{number}", positives=[f"p{each}" for each in passages], origin="")
        for number, passages in enumerate(rows)
    ]
    edges = [(passages[0], other) for passages in rows for other in passages]
    first, second = zip(*edges, strict=True) if edges else ((), ())
    _, labels = connected_components(coo_matrix(([1] * len(edges), (first, second)), shape=(16, 16)), False)
    wanted: dict[int, list[str]] = {}
    for number, passages in enumerate(rows):
        wanted.setdefault(labels[passages[0]], []).append(f"q{number}")
    assert [[row.question for row in group.rows] for group in _group(simple)] == list(wanted.values())


@pytest.mark.parametrize(
    "row",
    [
        {"query": "Q?", "passage": "A"},
        {"anchor": "Q?", "positive": "A"},
        {"question": "Q?", "positive_passages": [{"text": "A", "docid": "p7"}]},
    ],
)
def test_common_names_of_the_fields_are_known(tmp_path: Path, row: dict[str, Any]) -> None:
    (record,) = loaded(write(tmp_path / "mine.jsonl", [row]), tmp_path / "own")
    assert record.deduplicated_qa_pairs[0].question == "Q?"
    assert [chunk.text for chunk in record.chunks] == ["A"]


def test_lone_surrogates_in_the_user_s_file_are_replaced(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text(r'{"question": "Q\ud83d?", "positive": "A"}')
    assert loaded(path, tmp_path / "own")[0].deduplicated_qa_pairs[0].question == "Q\ufffd?"


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.jsonl", '{"question": "Q?", "positive": "A"}\n{"question": "Q?"}', r"a\.jsonl:2: positives?"),
        ("a.jsonl", '{"question": " ", "positive": "A"}', r"a\.jsonl:1: question"),
        ("a.jsonl", '{"question": "Q?", "positive": []}', r"a\.jsonl:1: positives?"),
        ("a.jsonl", '{"question": "Q?", "positive": "A", "score": 11}', r"a\.jsonl:1: score.*10"),
        ("a.jsonl", '{"question": "Q?", "positive": "A"}\n{"dedup', r"a\.jsonl:2: not JSON"),
        ("a.json", '{"question": "Q?"}', "must be a list of rows"),
        ("a.json", "[3]", "row 1: must be an object"),
        ("a.json", "[]", "has no rows"),
        ("a.parquet", "no parquet", "not a Parquet file"),
        ("a.csv", "q,p", "must be one of"),
        (
            "a.jsonl",
            '{"question": "Q?", "positive": "A"}\n{"deduplicated_qa_pairs": []}',
            "a record of the recipe among simple rows",
        ),
    ],
)
def test_bad_rows_are_named(tmp_path: Path, name: str, content: str, says: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(RecordError, match=says):
        loaded(tmp_path / name, tmp_path / "own")


def test_a_folder_holds_one_format(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    with pytest.raises(RecordError, match="holds no"):
        loaded(folder, tmp_path / "own")
    write(folder / "a.jsonl", [{"question": "Q?", "positive": "A"}])
    write(folder / "b.jsonl", [{"question": "R?", "positive": "B"}])
    assert len(loaded(folder, tmp_path / "own")) == 2
    write(folder / "c.json", [{"question": "S?", "positive": "C"}])
    with pytest.raises(RecordError, match=r"mixes formats.*a\.jsonl, b\.jsonl, c\.json"):
        loaded(folder, tmp_path / "own")
    with pytest.raises(RecordError, match="no such file or folder"):
        loaded(tmp_path / "gone", tmp_path / "own")
