"""The command where the artifact root cannot be written: searches work, all else says plainly what is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.command.conftest import Workplace, copy_workplace
from tests.small_disk import read_only


@pytest.fixture(scope="module")
def indexed(tmp_path_factory: pytest.TempPathFactory, indexed_home: Path) -> Workplace:
    return copy_workplace(indexed_home, tmp_path_factory.mktemp("read-only") / "project")


def test_search_needs_no_right_to_write(indexed: Workplace) -> None:
    search = ("search", "glaze and firing of the kiln", "--json")
    with read_only(indexed.home / "output"):
        code, output = indexed.retune(*search)
    assert code == 0, output
    assert "vectors are computed and not kept" in " ".join(output.split())
    lines = [line for line in output.splitlines() if line.startswith("{")]
    code, written = indexed.retune(*search)
    assert code == 0
    found, expected = ([json.loads(line) for line in each] for each in (lines, written.splitlines()))
    assert [hit["chunk_id"] for hit in found] == [hit["chunk_id"] for hit in expected]


@pytest.mark.parametrize("command", ["run", "promote", "rollback", "gc", "forget"])
def test_what_would_change_something_is_refused_at_once(indexed: Workplace, command: str) -> None:
    (base,) = (path.name for path in (indexed.home / "output" / "artifacts" / "base_model").iterdir())
    with (indexed.home / "documents" / "pump-00.md").open("a") as stream:
        stream.write("One more sentence makes the corpus stale, so that a run has something to do.\n")
    arguments = {
        "promote": ("promote", base, "--because", "a test"),
        "forget": ("forget", "pump-00.md"),
    }.get(command, (command,))
    if command == "rollback":
        assert indexed.retune("promote", base, "--because", "a test")[0] == 0
    before = _files(indexed.home / "output")
    with read_only(indexed.home / "output"):
        code, output = indexed.retune(*arguments)
    assert code == 1
    assert f"{indexed.home}/output cannot be written by this user: set its permissions" in " ".join(
        output.split()
    )
    assert "Traceback" not in output
    assert _files(indexed.home / "output") == before


def _files(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))
