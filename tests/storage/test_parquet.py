"""The columns of the files of rows: the bytes that pyarrow itself writes, without the import of pandas."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from storage import parquet
from storage.parquet import RowWriter, integer_lists

TEXTS = ("", "a", "prüfen", "滑翔机", "😀\n", "x" * 5000)


@dataclass(frozen=True)
class Row:
    name: str
    count: int
    text: str = ""


ROWS = [Row(f"r{number}", (-1) ** number * 7**number, TEXTS[number % len(TEXTS)]) for number in range(22)]


@pytest.mark.parametrize("batch", [1, 5, 22, 100])
def test_rows_have_the_bytes_that_pyarrow_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    monkeypatch.setattr(parquet, "BATCH_ROWS", batch)
    with RowWriter(tmp_path / "ours.parquet", Row) as writer:
        for row in ROWS:
            writer.add(row)
    schema = pa.schema([("name", pa.string()), ("count", pa.int64()), ("text", pa.string())])
    with pq.ParquetWriter(tmp_path / "theirs.parquet", schema) as theirs:
        for start in range(0, len(ROWS), batch):
            rows = [asdict(row) for row in ROWS[start : start + batch]]
            theirs.write_table(pa.Table.from_pylist(rows, schema=schema))
    assert (tmp_path / "ours.parquet").read_bytes() == (tmp_path / "theirs.parquet").read_bytes()
    assert [Row(**row) for row in pq.read_table(tmp_path / "ours.parquet").to_pylist()] == ROWS


def test_lists_have_the_bytes_that_pyarrow_writes(tmp_path: Path) -> None:
    lists = [[0], [0, 12, 2**40], [], [0, 5]]
    schema = pa.schema([("starts", pa.list_(pa.int64()))])
    for name, made in (("ours", integer_lists(lists)), ("theirs", pa.array(lists, pa.list_(pa.int64())))):
        pq.write_table(pa.Table.from_arrays([made], schema=schema), tmp_path / name)
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


def test_half_a_surrogate_pair_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UnicodeEncodeError), RowWriter(tmp_path / "rows.parquet", Row) as writer:
        writer.add(Row("a", 1, "\ud800"))


@pytest.mark.slow
def test_pandas_is_not_imported(tmp_path: Path) -> None:
    code = """
import sys
from pathlib import Path
from storage.artifacts import Document
from storage.parquet import RowWriter, integer_lists
with RowWriter(Path(sys.argv[1]), Document) as writer:
    writer.add(Document("a.txt", "A", "text"))
integer_lists([[1], [2, 3]])
sys.exit("pandas" in sys.modules)
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "rows.parquet")], check=True)
