"""Small files are replaced whole, and JSON keeps the format that versions are named by."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from threading import Barrier

import pytest

from storage.files import copy_file, make_database_file, write_atomic, write_json


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, '{\n "b": "ü",\n "a": [\n  1\n ]\n}'),
        ({"ensure_ascii": True, "sort_keys": True}, '{\n "a": [\n  1\n ],\n "b": "\\u00fc"\n}'),
        ({"indent": None, "final_newline": True}, '{"b": "ü", "a": [1]}\n'),
    ],
)
def test_json_has_the_bytes_that_its_options_say(
    options: dict[str, bool | None], expected: str, tmp_path: Path
) -> None:
    path = tmp_path / "new" / "value.json"
    write_json(path, {"b": "ü", "a": [1]}, **options)  # type: ignore[arg-type]
    assert path.read_bytes() == expected.encode()


def test_a_file_is_replaced_and_not_written_through_a_hard_link(tmp_path: Path) -> None:
    source, copy = tmp_path / "source", tmp_path / "copy"
    source.write_text("old")
    copy.hardlink_to(source)
    write_atomic(copy, "new")
    assert (source.read_text(), copy.read_text()) == ("old", "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy", "source"]


def _refused(*_: int) -> int:
    raise OSError(errno.EXDEV, "another file system")


def _stops(*_: int) -> int:
    return 0


def _half(source: int, target: int, count: int) -> int:
    return os.write(target, os.read(source, max(1, count // 2)))


@pytest.mark.parametrize("in_kernel", [None, _refused, _stops, _half])
@pytest.mark.parametrize("size", [0, 1, 3_000_000])
def test_a_copy_is_a_file_of_its_own(
    size: int, in_kernel: Callable[..., int] | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if in_kernel is not None:
        monkeypatch.setattr(os, "copy_file_range", in_kernel)
    content = os.urandom(size)
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(content)
    source.chmod(0o444)
    copy_file(source, target)
    assert target.read_bytes() == content
    assert target.stat().st_ino != source.stat().st_ino
    assert target.stat().st_mode & 0o200
    source.chmod(0o644)
    source.write_bytes(b"changed")
    assert target.read_bytes() == content


def test_a_copy_is_made_where_the_system_has_none_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "copy_file_range")
    (tmp_path / "source").write_bytes(b"content")
    copy_file(tmp_path / "source", tmp_path / "target")
    assert (tmp_path / "target").read_bytes() == b"content"


def test_a_database_appears_whole_and_ready_for_several_processes(tmp_path: Path) -> None:
    """Bytes 18 and 19 are 2 with a write-ahead log: https://www.sqlite.org/fileformat.html#the_database_header."""
    path = tmp_path / "notes.sqlite"
    make_database_file(path, "PRAGMA page_size=8192", "CREATE TABLE notes (text)")
    header = path.read_bytes()[:20]
    assert (int.from_bytes(header[16:18], "big"), header[18:]) == (8192, b"\x02\x02")
    assert list(tmp_path.iterdir()) == [path]
    with closing(sqlite3.connect(path)) as file:
        file.execute("INSERT INTO notes VALUES ('kept')")
        file.commit()
    make_database_file(path, "CREATE TABLE others (text)")
    with closing(sqlite3.connect(path)) as file:
        assert file.execute("SELECT name, text FROM sqlite_schema, notes").fetchall() == [("notes", "kept")]


def test_threads_that_make_a_database_at_once_share_it(tmp_path: Path) -> None:
    path, start = tmp_path / "notes.sqlite", Barrier(8)

    def write(number: int) -> None:
        start.wait()
        make_database_file(path, "CREATE TABLE notes (number)")
        with closing(sqlite3.connect(path, timeout=60)) as file:
            file.execute("INSERT INTO notes VALUES (?)", (number,))
            file.commit()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(8)))
    with closing(sqlite3.connect(path)) as file:
        assert sorted(file.execute("SELECT number FROM notes")) == [(number,) for number in range(8)]
    assert list(tmp_path.iterdir()) == [path]
