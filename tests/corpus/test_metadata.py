"""The user's own fields: from front matter and from a metadata file, typed, and refused where they cannot be."""

from __future__ import annotations

import csv
import datetime
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

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
        f"---\nnote: this: that\n---\n{LONG}",
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
        ('{"file_name": "a.md"}\n{oops', "line 2: not JSON"),
        ('{"lang": "de"}', "line 1: file_name is missing"),
        ('{"file_name": "a.md"}\n{"file_name": "a.md"}', "line 2: file_name 'a.md' comes twice"),
        ("[1]", "line 1: not a JSON object"),
    ],
)
def test_a_malformed_metadata_file_is_named_with_its_line(
    content: str, message: str, folder: Path, tmp_path: Path
) -> None:
    (folder / "metadata.jsonl").write_text(content)
    with pytest.raises(CorpusError, match=f"metadata.jsonl {message}"):
        read(settings(folder), tmp_path / "out")


def test_two_metadata_files_are_refused(folder: Path, tmp_path: Path) -> None:
    write_rows(folder / "metadata.jsonl")
    write_rows(folder / "metadata.csv")
    with pytest.raises(CorpusError, match=r"both metadata\.jsonl and metadata\.csv"):
        read(settings(folder), tmp_path / "out")


def test_a_document_that_is_front_matter_alone_is_too_short(folder: Path, tmp_path: Path) -> None:
    (folder / "c.md").write_text("---\nlang: a language with a name that is long enough to count\n---\nshort")
    read(settings(folder), tmp_path / "out")
    assert skipped(tmp_path / "out")["c.md"].startswith("too short")
