"""The store: built once, published whole, survives kills, shares equal content."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest

from storage.artifact_store import ArtifactError, ArtifactStore, BuildKey
from storage.artifacts import Artifact


@dataclass(frozen=True)
class Note(Artifact):
    content: ClassVar[tuple[str, ...]] = ("note.txt",)


def key(code: str = "1", **inputs: str) -> BuildKey:
    return BuildKey("notes", code, inputs)


def writer(text: str, calls: list[str]) -> Callable[[Path], None]:
    def produce(folder: Path) -> None:
        calls.append(text)
        (folder / "note.txt").write_text(text)
        (folder / "log.txt").write_text(f"call {len(calls)}")

    return produce


def test_one_key_is_built_once_and_found_again(tmp_path: Path) -> None:
    store, calls = ArtifactStore(tmp_path), []
    first = store.build(Note, key(a="1"), writer("hello", calls))
    again = ArtifactStore(tmp_path).build(Note, key(a="1"), writer("other", calls))
    assert again == first
    assert calls == ["hello"]
    assert (first.path / "note.txt").read_text() == "hello"


def test_equal_content_is_one_version_whatever_led_to_it(tmp_path: Path) -> None:
    store, calls = ArtifactStore(tmp_path), []
    first = store.build(Note, key("1"), writer("same", calls))
    second = store.build(Note, key("2"), writer("same", calls))
    third = store.build(Note, key("3"), writer("different", calls))
    assert first.version == second.version != third.version
    assert sorted(store.versions("notes")) == sorted({first.version, third.version})


def test_files_that_are_company_do_not_change_the_version_and_the_manifest_names_all(tmp_path: Path) -> None:
    note = ArtifactStore(tmp_path).build(Note, key(), writer("x", []))
    manifest = json.loads((note.path / "manifest.json").read_text())
    assert set(manifest["files"]) == {"note.txt", "log.txt"}
    assert manifest["version"] == note.version == note.path.name


def test_a_damaged_version_is_refused_by_name_and_rebuilt_by_key(tmp_path: Path) -> None:
    store, calls = ArtifactStore(tmp_path), []
    note = store.build(Note, key(), writer("whole", calls))
    (note.path / "note.txt").write_text("")
    with pytest.raises(ArtifactError, match=r"notes .* is damaged"):
        store.get(Note, "notes", note.version)
    rebuilt = store.build(Note, key(), writer("whole", calls))
    assert (rebuilt.path / "note.txt").read_text() == "whole"
    assert len(calls) == 2


def test_an_error_leaves_no_version_and_the_next_try_finds_the_work_folder(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)

    def fails(folder: Path) -> None:
        (folder / "half").write_text("half")
        raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        store.build(Note, key(), fails)
    assert store.versions("notes") == []

    def resumes(folder: Path) -> None:
        assert (folder / "half").read_text() == "half"
        (folder / "half").rename(folder / "note.txt")

    assert (store.build(Note, key(), resumes).path / "note.txt").read_text() == "half"


def test_a_full_disk_says_so_and_keeps_the_work(tmp_path: Path) -> None:
    def fills(folder: Path) -> None:
        (folder / "half").write_text("half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(ArtifactError, match="disk full while making notes"):
        ArtifactStore(tmp_path).build(Note, key(), fills)
    assert list(tmp_path.glob(".work/notes/*/half"))


def test_a_kill_while_building_leaves_nothing_visible(tmp_path: Path) -> None:
    script = textwrap.dedent(
        """
        import sys, time
        from pathlib import Path
        from storage.artifact_store import ArtifactStore, BuildKey
        from storage.artifacts import Artifact

        def produce(folder):
            (folder / "note.txt").write_text("half")
            print("writing", flush=True)
            time.sleep(60)

        ArtifactStore(Path(sys.argv[1])).build(Artifact, BuildKey("notes", "1", {}), produce)
        """
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    store = ArtifactStore(tmp_path)
    assert store.versions("notes") == []
    assert (store.build(Note, key(), writer("whole", [])).path / "note.txt").read_text() == "whole"


def test_a_link_moves_atomically_and_never_replaces_a_users_folder(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    one = store.build(Note, key("1"), writer("one", []))
    two = store.build(Note, key("2"), writer("two", []))
    store.link("stage/current", one.path)
    link = store.link("stage/current", two.path)
    assert (link / "note.txt").read_text() == "two"
    (tmp_path / "stage" / "mine").mkdir()
    with pytest.raises(ArtifactError, match="a folder that Retune did not make"):
        store.link("stage/mine", one.path)
