"""Small files are replaced whole, and JSON keeps the format that versions are named by."""

from __future__ import annotations

from pathlib import Path

import pytest

from storage.files import write_atomic, write_json


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
