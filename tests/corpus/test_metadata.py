"""The user's own fields: from front matter and from a metadata file, typed, and refused where they cannot be."""

from __future__ import annotations

import contextlib
import csv
import datetime
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from assets_pkg.corpus.metadata_file import read_metadata_file
from assets_pkg.corpus.sources import CorpusError, source_fingerprint
from storage.artifacts import Document
from tests.corpus.test_folder import LONG, read, settings, skipped

FRONT = f"""---
title: "Wings: an overview"
lang: de
Year: 2021
weight: 0.5
draft: false
tags: [air, 7]
last-updated: 2024-03-01
author: {{name: Ada}}
nothing:
---
# Another heading

{LONG}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "corpus"
    (made / "sub").mkdir(parents=True)
    (made / "a.md").write_text(FRONT)
    (made / "sub" / "b.txt").write_text(LONG)
    return made


def by_name(folder: Path, out: Path, **changes: object) -> dict[str, Document]:
    return {each.doc_id: each for each in read(settings(folder, **changes), out).documents()}


def metadata(folder: Path, out: Path, **changes: object) -> dict[str, dict[str, Any]]:
    return {name: json.loads(each.metadata) for name, each in by_name(folder, out, **changes).items()}


def test_front_matter_becomes_typed_fields_and_leaves_the_text(folder: Path, tmp_path: Path) -> None:
    found = by_name(folder, tmp_path / "out")
    assert found["a.md"].text == f"# Another heading\n\n{LONG}\n"
    assert found["a.md"].title == "Wings: an overview"
    assert json.loads(found["a.md"].metadata) == {
        "lang": "de",
        "year": 2021,
        "weight": 0.5,
        "draft": False,
        "tags": ["air", "7"],
        "last_updated": "2024-03-01",
        "author": '{"name": "Ada"}',
    }
    assert found["sub/b.txt"].metadata == "{}"
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert "draft: bool, lang: text" in summary["metadata_fields"]
    assert "tags: texts, weight: float, year: int" in summary["metadata_fields"]


@pytest.mark.parametrize(
    "text",
    [
        f"---\n{LONG}\n---\nmore",
        f"---\nlang: de\n{LONG}",
        f"{LONG}\n---\nlang: de\n---\n",
    ],
)
def test_lines_of_dashes_that_are_no_front_matter_stay_in_the_text(
    text: str, folder: Path, tmp_path: Path
) -> None:
    (folder / "a.md").write_text(text)
    document = by_name(folder, tmp_path / "out")["a.md"]
    assert (document.text, document.metadata) == (text, "{}")


ROWS = [
    {"file_name": "a.md", "lang": "fr", "stars": 4, "added": datetime.date(2024, 5, 6)},
    {"file_name": "sub/b.txt", "lang": "en", "stars": None, "added": datetime.date(2023, 1, 2)},
    {"file_name": "gone.md", "lang": "it", "stars": 1, "added": datetime.date(2020, 1, 1)},
]


def write_rows(path: Path) -> None:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(ROWS), path)
    elif path.suffix == ".csv":
        with path.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, list(ROWS[0]))
            writer.writeheader()
            writer.writerows(ROWS)
    else:
        path.write_text("\n".join(json.dumps(row, default=str) for row in ROWS))


@pytest.mark.parametrize("name", ["metadata.jsonl", "metadata.csv", "metadata.parquet"])
def test_a_file_beside_the_documents_gives_fields_and_goes_before_front_matter(
    name: str, folder: Path, tmp_path: Path
) -> None:
    before = source_fingerprint(settings(folder))
    write_rows(folder / name)
    found = metadata(folder, tmp_path / "out", file_extensions=[".md", ".txt", ".jsonl", ".csv"])
    assert set(found) == {"a.md", "sub/b.txt"}
    assert found["a.md"] | {"lang": "fr", "stars": 4, "added": "2024-05-06", "year": 2021} == found["a.md"]
    assert found["sub/b.txt"] == {"lang": "en", "added": "2023-01-02"}
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert source_fingerprint(settings(folder)) != before
    extensions = [".md", ".txt", ".jsonl", ".csv"]
    assert source_fingerprint(settings(folder, file_extensions=extensions)) == summary["fingerprint"]


def test_only_the_fields_that_are_asked_for_are_kept(folder: Path, tmp_path: Path) -> None:
    found = by_name(folder, tmp_path / "one", metadata_fields=["Year", "lang"])
    assert json.loads(found["a.md"].metadata) == {"year": 2021, "lang": "de"}
    assert found["a.md"].title == "Wings: an overview"
    assert metadata(folder, tmp_path / "two", metadata_fields=[])["a.md"] == {}


def test_whole_and_decimal_numbers_are_one_column_but_other_types_are_not(
    folder: Path, tmp_path: Path
) -> None:
    (folder / "c.md").write_text(f"---\nyear: 2021.5\n---\n{LONG}")
    read(settings(folder), tmp_path / "one")
    assert "year: float" in json.loads((tmp_path / "one" / "summary.json").read_text())["metadata_fields"]
    (folder / "c.md").write_text(f"---\nyear: last\n---\n{LONG}")
    with pytest.raises(CorpusError, match=r"'year' is int in a.md and text in c.md.*metadata_fields"):
        read(settings(folder), tmp_path / "two")


@pytest.mark.parametrize("name", ["text", "Doc-ID", "vector", "section", "_distance", "§"])
def test_a_field_with_a_name_of_the_index_is_a_clear_error(name: str, folder: Path, tmp_path: Path) -> None:
    (folder / "metadata.jsonl").write_text(json.dumps({"file_name": "a.md", name: "x"}))
    with pytest.raises(
        CorpusError, match=f"metadata.jsonl, a.md: the field '{name}' has the name of a column"
    ):
        read(settings(folder), tmp_path / "out")
    assert metadata(folder, tmp_path / "ok", metadata_fields=["lang"])["a.md"] == {"lang": "de"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"file_name": "a.md"}\n{oops', "2: not JSON"),
        ('{"lang": "de"}', "1: file_name is missing"),
        ('{"file_name": "a.md"}\n{"file_name": "a.md"}', "2: file_name 'a.md' comes twice"),
        ("[1]", "1: not a JSON object"),
    ],
)
def test_a_malformed_metadata_file_is_named_with_its_line(
    content: str, message: str, folder: Path, tmp_path: Path
) -> None:
    (folder / "metadata.jsonl").write_text(content)
    with pytest.raises(CorpusError, match=f"metadata.jsonl:{message}"):
        read(settings(folder), tmp_path / "out")


def test_codes_stay_as_they_are_written(folder: Path, tmp_path: Path) -> None:
    (folder / "metadata.csv").write_text(
        "file_name,postcode,country,release,stars,weight,price,big,open,part\n"
        'a.md,"01067",NA,1.10,4,0.5,4.50,18446744073709551616,true,nan\n'
        "sub/b.txt,53111,DE,1.9,,2,4.75,1,false,1\n"
    )
    found = metadata(folder, tmp_path / "out")
    assert found["sub/b.txt"] == {
        "postcode": "53111",
        "country": "DE",
        "release": "1.9",
        "weight": 2.0,
        "price": "4.75",
        "big": "1",
        "open": False,
        "part": "1",
    }
    assert (
        found["a.md"]
        | {
            "postcode": "01067",
            "country": "NA",
            "release": "1.10",
            "stars": 4,
            "weight": 0.5,
            "price": "4.50",
            "big": "18446744073709551616",
            "open": True,
            "part": "nan",
        }
        == found["a.md"]
    )


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl"])
def test_a_metadata_file_in_another_encoding_is_named_with_its_line(
    name: str, encoding: str, folder: Path, tmp_path: Path
) -> None:
    csv_text, json_text = (
        "file_name,city\na.md,K\u00f6ln\n",
        '{"file_name": "a.md"}\n{"file_name": "\u00f6"}\n',
    )
    (folder / name).write_text(csv_text if name.endswith("csv") else json_text, encoding)
    line = 1 if encoding == "utf-16" else 2
    with pytest.raises(CorpusError, match=rf"{name}:{line}: not UTF-8 .*: save the file as UTF-8"):
        read(settings(folder), tmp_path / "out")


@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl"])
def test_a_byte_order_mark_is_no_part_of_a_metadata_file(name: str, folder: Path, tmp_path: Path) -> None:
    content = "file_name,stars\na.md,4\n" if name.endswith("csv") else '{"file_name": "a.md", "stars": 4}'
    (folder / name).write_text(content, "utf-8-sig")
    assert metadata(folder, tmp_path / "out")["a.md"]["stars"] == 4


def test_lines_of_json_end_at_line_feeds_alone(folder: Path, tmp_path: Path) -> None:
    row = {"file_name": "a.md", "note": "one\u2028two\u0085three\x0cfour"}
    (folder / "metadata.jsonl").write_text(json.dumps(row, ensure_ascii=False).replace("\\f", "\\f") + "\r\n")
    assert metadata(folder, tmp_path / "out")["a.md"]["note"] == row["note"]


def test_names_are_compared_as_what_they_mean_and_others_are_told(folder: Path, tmp_path: Path) -> None:
    (folder / "k\u00fcche.md").write_text(LONG)
    rows = ["ku\u0308che.md", "./a.md", "sub\\b.txt", "fery.md", "../corpus/a.md"]
    (folder / "metadata.jsonl").write_text("\n".join(json.dumps({"file_name": n, "place": n}) for n in rows))
    found = metadata(folder, tmp_path / "out")
    assert {name: fields["place"] for name, fields in found.items()} == {
        "a.md": "./a.md",
        "k\u00fcche.md": "ku\u0308che.md",
        "sub/b.txt": "sub\\b.txt",
    }
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert (summary["skipped"], summary["metadata_rows_left_out"]) == (0, 2), "no document was skipped"
    assert skipped(tmp_path / "out")["fery.md"].endswith("metadata.jsonl:4 names no document that is read")
    assert source_fingerprint(settings(folder)) == summary["fingerprint"]


def test_rows_about_documents_beyond_num_files_are_not_told(folder: Path, tmp_path: Path) -> None:
    write_rows(folder / "metadata.jsonl")
    read(settings(folder, num_files=1), tmp_path / "out")
    assert set(skipped(tmp_path / "out")) == {"gone.md"}


def test_two_columns_of_one_name_are_refused(folder: Path, tmp_path: Path) -> None:
    (folder / "metadata.csv").write_text("file_name,lang,lang\na.md,de,en\n")
    with pytest.raises(CorpusError, match=r"metadata\.csv: the column 'lang' comes twice"):
        read(settings(folder), tmp_path / "one")
    (folder / "metadata.csv").unlink()
    table = pa.Table.from_arrays([pa.array(["a.md"]), pa.array([1]), pa.array([2])], ["file_name", "n", "n"])
    pq.write_table(table, folder / "metadata.parquet")
    with pytest.raises(CorpusError, match=r"metadata\.parquet: the column 'n' comes twice"):
        read(settings(folder), tmp_path / "two")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ('{"file_name": "a.md", "x": "\\ud800"}', "the field 'x' has half a surrogate pair"),
        (f'{{"file_name": "a.md", "x": {"[" * 80}{"]" * 80}}}', "the field 'x' is nested more than 50 deep"),
        (f'{{"file_name": "a.md", "x": {"[" * 9000}{"]" * 9000}}}', "nested more than 100 deep"),
        (f'{{"file_name": "a.md", "x": {"9" * 5000}}}', "not JSON: Exceeds the limit"),
    ],
)
def test_a_row_with_an_impossible_value_is_named(row: str, reason: str, folder: Path, tmp_path: Path) -> None:
    (folder / "metadata.jsonl").write_text(row)
    with pytest.raises(CorpusError, match=rf"metadata\.jsonl.*{reason}"):
        read(settings(folder), tmp_path / "out")
    if "field" in reason:
        assert set(metadata(folder, tmp_path / "ok", metadata_fields=["lang"])) == {"a.md", "sub/b.txt"}


def test_a_binary_column_and_a_damaged_parquet_file_are_named(folder: Path, tmp_path: Path) -> None:
    path = folder / "metadata.parquet"
    pq.write_table(pa.Table.from_pylist([{"file_name": "a.md", "x": b"\xf6", "y": [{"z": b"\xf6"}]}]), path)
    with pytest.raises(CorpusError, match=r"metadata\.parquet, a\.md: the field 'x': binary"):
        read(settings(folder), tmp_path / "one")
    with pytest.raises(CorpusError, match="the field 'y': binary"):
        read(settings(folder, metadata_fields=["y"]), tmp_path / "two")
    whole = path.read_bytes()
    for damaged in (whole[:-20], whole[:40] + b"\xff" * 60 + whole[100:], b""):
        path.write_bytes(damaged)
        with pytest.raises(CorpusError, match=r"metadata\.parquet"):
            read(settings(folder), tmp_path / "three")


@given(
    content=st.binary(max_size=80)
    | st.text(alphabet='file_name,a.md"\n\r1.0;\t', max_size=80).map(str.encode)
)
def test_no_metadata_file_is_an_unforeseen_error(
    content: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    for name in ("metadata.csv", "metadata.jsonl", "metadata.parquet"):
        (folder / name).write_bytes(content)
        with contextlib.suppress(CorpusError):
            read_metadata_file(folder / name, ["a.md"])


def test_two_metadata_files_are_refused(folder: Path, tmp_path: Path) -> None:
    write_rows(folder / "metadata.jsonl")
    write_rows(folder / "metadata.csv")
    with pytest.raises(CorpusError, match=r"both metadata\.jsonl and metadata\.csv"):
        read(settings(folder), tmp_path / "out")


def test_a_document_that_is_front_matter_alone_is_too_short(folder: Path, tmp_path: Path) -> None:
    (folder / "c.md").write_text("---\nlang: a language with a name that is long enough to count\n---\nshort")
    read(settings(folder), tmp_path / "out")
    assert skipped(tmp_path / "out")["c.md"].startswith("too short")
