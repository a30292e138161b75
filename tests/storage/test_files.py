"""Small files are replaced whole, and JSON keeps the format that versions are named by."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from storage.files import copy_file, write_atomic, write_json


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
