"""Pairs in the files of other tools, and files that cannot be read."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from assets_pkg.sdg.own_pairs import load_own_pairs
from storage.formats.qa_records import RecordError, SourceRecord, read_records

RECORD = {"file_name": "a", "source_id": "a", "chunks": [{"text": "A", "chunk_id": 1}]}


def loaded(path: Path) -> list[SourceRecord]:
    folder = path.parent / "own"
    folder.mkdir(exist_ok=True)
    load_own_pairs(path, folder)
    return list(read_records(folder / "qa_records.jsonl"))


def texts(record: SourceRecord) -> tuple[str, list[str]]:
    return record.deduplicated_qa_pairs[0].question, [chunk.text for chunk in record.chunks]


@pytest.mark.parametrize(
    ("row", "passages"),
    [
        (
            {
                "query": "Q",
                "positive_passages": [{"title": "T", "text": "A"}],
                "negative_passages": [{"title": "U", "text": "N"}],
            },
            ["T A", "U N"],
        ),
        ({"query": "Q", "positive_passages": [{"title": "", "text": "A"}]}, ["A"]),
        ({"anchor": "Q", "positive": "A", "negative_1": "N", "negative_2": "M"}, ["A", "N", "M"]),
        ({"query": "Q", "pos": ["A"], "neg": ["N"]}, ["A", "N"]),
        ({"user_input": "Q", "reference_contexts": ["A"], "reference": "2"}, ["A"]),
        ({"query": "Q", "pos_doc": "A", "neg_doc": ["N"]}, ["A", "N"]),
        ({"question": "Q", "pos_doc": [{"text": "A"}], "neg_doc": [{"text": "N"}]}, ["A", "N"]),
    ],
)
def test_the_fields_of_other_tools_are_known(
    row: dict[str, Any], passages: list[str], tmp_path: Path
) -> None:
    (tmp_path / "pairs.jsonl").write_text(json.dumps(row))
    (record,) = loaded(tmp_path / "pairs.jsonl")
    assert texts(record) == ("Q", passages)
    assert record.deduplicated_qa_pairs[0].answer == row.get("reference", "")


def test_a_json_file_may_hold_an_object_a_line(tmp_path: Path) -> None:
    rows = [{"question": f"Q{n}", "positive": f"A{n}"} for n in range(3)]
    (tmp_path / "pairs.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    records = loaded(tmp_path / "pairs.json")
    assert [texts(record) for record in records] == [(f"Q{n}", [f"A{n}"]) for n in range(3)]
    assert records[1].deduplicated_qa_pairs[0].origin == "pairs.json:2"


def test_a_byte_order_mark_and_other_line_ends_within_texts_do_no_harm(tmp_path: Path) -> None:
    row = {"question": "Q", "positive": "one\u2028two\u0085three"}
    (tmp_path / "pairs.jsonl").write_text(json.dumps(row, ensure_ascii=False), "utf-8-sig")
    assert texts(loaded(tmp_path / "pairs.jsonl")[0])[1] == [row["positive"]]
    (tmp_path / "pairs.json").write_text(json.dumps([row], ensure_ascii=False), "utf-8-sig")
    assert texts(loaded(tmp_path / "pairs.json")[0])[1] == [row["positive"]]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.jsonl", '{"q": "Q", "p": "A"}', r"looked for question or query or .*; the row has q, p"),
        (
            "a.json",
            '{"queries": {}, "corpus": {}}',
            "must be a list of rows, is an object with queries, corpus",
        ),
        ("a.jsonl", '{"question": "Q", "positive": "A", "score": NaN}', r"a\.jsonl:1: score: "),
        ("a.jsonl", b'{"question": "\xfc", "positive": "A"}', r"a\.jsonl:1: not UTF-8 \(byte 0xfc"),
        ("a.json", b'[{"question": "Q",\n"positive": "\xfc"}]', r"a\.json:2: not UTF-8 \(byte 0xfc"),
        ("a.jsonl", '{"question": "Q"}'.encode("utf-16"), r"a\.jsonl:1: not UTF-8 \(UTF-16\)"),
        ("a.json", "[" * 300 + "]" * 300, r"a\.json: lists or objects are nested more than 100 deep"),
        ("a.json", "[" * 100_000, r"a\.json: (not JSON|lists or objects are nested)"),
        ("a.jsonl", json.dumps({**RECORD, "file_name": [], "deduplicated_qa_pairs": []}), "file_name: "),
        ("a.jsonl", json.dumps({**RECORD, "deduplicated_qa_pairs": []}), "qa_evaluations: Field required"),
    ],
)
def test_what_cannot_be_read_is_named(name: str, content: str | bytes, says: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(RecordError, match=says):
        loaded(tmp_path / name)


def test_binary_and_damaged_parquet_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    row = {**RECORD, "deduplicated_qa_pairs": [{"question": b"\xf6", "segment_ids": [1]}]}
    pq.write_table(pa.Table.from_pylist([{**row, "qa_evaluations": {"evaluations": [{"x": 1}]}}]), path)
    with pytest.raises(RecordError, match=r"row 1: deduplicated_qa_pairs\.0\.question: "):
        loaded(path)
    whole = path.read_bytes()
    for damaged in (whole[:-9], b"", whole[:60] + b"\xff" * 200 + whole[260:]):
        path.write_bytes(damaged)
        with pytest.raises(RecordError, match=r"a\.parquet"):
            loaded(path)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4) | st.just("\ud800"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
NAMES = ["question", "positive", "negatives", "negative_1", "answer", "score", "pos", "deduplicated_qa_pairs"]


@pytest.mark.slow
@given(
    rows=st.lists(st.dictionaries(st.sampled_from(NAMES), VALUES) | VALUES, max_size=3), fill=st.booleans()
)
def test_any_rows_are_read_or_refused_in_words(
    rows: list[Any], fill: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("rows")
    good = {"question": "Q", "positive": "A"}
    filled = [{**good, **row} if fill and isinstance(row, dict) else row for row in rows]
    (folder / "a.json").write_text(json.dumps(filled))
    (folder / "b.jsonl").write_text("\n".join(json.dumps(row) for row in filled))
    for name in ("a.json", "b.jsonl"):
        with contextlib.suppress(RecordError):
            loaded(folder / name)
