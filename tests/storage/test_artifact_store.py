"""The store, in a folder and at URLs: built once, published whole, survives kills, shares equal content."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from storage.artifact_store import ArtifactError, ArtifactStore
from storage.embedding_cache import EmbeddingCache
from storage.remote_store import RemoteArtifactStore, open_store
from tests.small_disk import small_disk
from tests.storage.notes import Note, key, writer

TOO_MUCH = 400_000
"""Bytes that a disk of 256 kB does not take."""


def test_one_key_is_built_once_and_found_again(root: str) -> None:
    store, calls = open_store(root), []
    first = store.build(Note, key(a="1"), writer("hello", calls))
    again = open_store(root).build(Note, key(a="1"), writer("other", calls))
    assert again == first
    assert calls == ["hello"]
    assert (first.path / "note.txt").read_text() == "hello"


def test_equal_content_is_one_version_whatever_led_to_it(root: str) -> None:
    store, calls = open_store(root), []
    first = store.build(Note, key("1"), writer("same", calls))
    second = store.build(Note, key("2"), writer("same", calls))
    third = store.build(Note, key("3"), writer("different", calls))
    assert first.version == second.version != third.version
    assert sorted(store.versions("notes")) == sorted({first.version, third.version})


def test_files_that_are_company_do_not_change_the_version_and_the_manifest_names_all(root: str) -> None:
    note = open_store(root).build(Note, key(), writer("x", []))
    manifest = json.loads((note.path / "manifest.json").read_text())
    assert set(manifest["files"]) == {"note.txt", "log.txt"}
    assert manifest["version"] == note.version == note.path.name


def test_published_files_are_read_only_and_can_be_deleted(root: str, tmp_path: Path) -> None:
    def produce(folder: Path) -> None:
        (folder / "deep").mkdir()
        (folder / "deep" / "more.txt").write_text("more")
        (folder / "note.txt").write_text("hello")
        (folder / "note.txt").chmod(0o640)

    store = open_store(root)
    made = store.build(Note, key(), produce)
    names = ["deep/more.txt", "manifest.json", "note.txt"]
    modes = {name: (made.path / name).stat().st_mode & 0o777 for name in names}
    assert all(mode & 0o222 == 0 for mode in modes.values())
    assert modes["note.txt"] == 0o440
    if root.startswith("file://"):
        there = RemoteArtifactStore(root, tmp_path / "other").get(Note, "notes", made.version)
        assert all((there.path / name).stat().st_mode & 0o222 == 0 for name in names)
    store.remove("notes", made.version)
    assert not made.path.exists()


def test_a_damaged_version_is_refused_by_name_and_rebuilt_by_key(tmp_path: Path) -> None:
    store, calls = ArtifactStore(tmp_path), []
    note = store.build(Note, key(), writer("whole", calls))
    (note.path / "note.txt").unlink()
    (note.path / "note.txt").write_text("")
    with pytest.raises(ArtifactError, match=r"notes .* is damaged"):
        store.get(Note, "notes", note.version)
    rebuilt = store.build(Note, key(), writer("whole", calls))
    assert (rebuilt.path / "note.txt").read_text() == "whole"
    assert len(calls) == 2


def test_an_error_leaves_no_version_and_the_next_try_finds_the_work_folder(root: str) -> None:
    store = open_store(root)

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


def test_a_full_disk_says_so_and_keeps_the_work(root: str) -> None:
    store = open_store(root)
    with small_disk(store.root, "256k") as disk:
        earlier = store.build(Note, key("earlier"), writer("earlier", []))

        def goes_on(folder: Path) -> None:
            (folder / "half").write_text("half")
            (folder / "note.txt").write_bytes(b"x" * TOO_MUCH)

        message = rf"disk full while making notes: 0\.0 GB free at {store.root}.*run the same command"
        with pytest.raises(ArtifactError, match=message):
            store.build(Note, key(), goes_on)
        assert list(store.root.glob(".work/notes/*/half"))
        assert store.versions("notes") == [earlier.version]
        store.verify(earlier)
        disk.grow("4m")
        assert (store.build(Note, key(), goes_on).path / "note.txt").stat().st_size == TOO_MUCH


def _numpy(path: Path) -> None:
    import numpy as np

    np.save(path, np.zeros(TOO_MUCH, dtype=np.uint8))


def _torch(path: Path) -> None:
    import torch

    torch.save(torch.zeros(TOO_MUCH, dtype=torch.uint8), path)


def _safetensors(path: Path) -> None:
    import numpy as np
    from safetensors.numpy import save_file

    save_file({"weights": np.zeros(TOO_MUCH, dtype=np.uint8)}, path)


def _parquet(path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"text": [os.urandom(TOO_MUCH)]}), path)


def _sqlite(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE texts (text)")
        connection.execute("INSERT INTO texts VALUES (zeroblob(?))", [TOO_MUCH])


def _lance(path: Path) -> None:
    import lancedb
    import pyarrow as pa

    lancedb.connect(path).create_table("texts", pa.table({"text": [os.urandom(TOO_MUCH)]}))


def _embeddings(path: Path) -> None:
    import numpy as np

    EmbeddingCache(path).put("model", ["digest"], np.zeros((1, TOO_MUCH // 4), dtype=np.float32))


@pytest.mark.parametrize(
    "write",
    [_numpy, _torch, _safetensors, _parquet, _sqlite, _lance, _embeddings],
    ids=lambda write: write.__name__,
)
def test_a_full_disk_is_told_whatever_library_met_it(tmp_path: Path, write: Callable[[Path], None]) -> None:
    with small_disk(tmp_path / "store", "256k") as disk:
        store = ArtifactStore(disk.folder)
        with pytest.raises(ArtifactError, match="disk full while making notes"):
            store.build(Note, key(), lambda folder: write(folder / "file"))


def test_another_error_is_not_taken_for_a_full_disk(tmp_path: Path) -> None:
    def fails(_: Path) -> None:
        raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        ArtifactStore(tmp_path).build(Note, key(), fails)


def test_a_kill_while_building_leaves_nothing_visible(root: str) -> None:
    script = textwrap.dedent(
        """
        import sys, time
        from storage.artifact_store import BuildKey
        from storage.artifacts import Artifact
        from storage.remote_store import open_store

        def produce(folder):
            (folder / "note.txt").write_text("half")
            print("writing", flush=True)
            time.sleep(60)

        open_store(sys.argv[1]).build(Artifact, BuildKey("notes", "1", {}), produce)
        """
    )
    process = subprocess.Popen([sys.executable, "-c", script, root], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    store = open_store(root)
    assert store.versions("notes") == []
    assert (store.build(Note, key(), writer("whole", [])).path / "note.txt").read_text() == "whole"


def test_a_link_moves_atomically_and_never_replaces_a_users_folder(root: str) -> None:
    store = open_store(root)
    one = store.build(Note, key("1"), writer("one", []))
    two = store.build(Note, key("2"), writer("two", []))
    store.link("stage/current", one.path)
    link = store.link("stage/current", two.path)
    assert (link / "note.txt").read_text() == "two"
    (store.root / "stage" / "mine").mkdir()
    with pytest.raises(ArtifactError, match="a folder that Retune did not make"):
        store.link("stage/mine", one.path)


def test_a_name_is_resolved_until_it_is_taken_away(root: str) -> None:
    store = open_store(root)
    one = store.build(Note, key("1"), writer("one", []))
    assert store.resolve("stage/current") is None
    store.link("stage/current", one.path / "note.txt")
    found = store.resolve("stage/current")
    assert found is not None
    assert found.read_text() == "one"
    assert store.linked() == {("notes", one.version)}
    store.unlink("stage/current")
    store.unlink("stage/current")
    assert store.resolve("stage/current") is None
    assert store.linked() == set()


def test_a_removed_version_is_gone_and_built_again_when_asked_for(root: str) -> None:
    store, calls = open_store(root), []
    one, two = (store.build(Note, key(text), writer(text, calls)) for text in ("one", "two"))
    assert store.versions("notes") == [two.version, one.version]
    assert store.size("notes", one.version) == len("one" + "call 1")
    store.remove("notes", one.version)
    assert store.versions("notes") == [two.version]
    assert store.find(Note, key("one")) is None
    with pytest.raises(ArtifactError, match=f"notes {one.version} is not in"):
        store.get(Note, "notes", one.version)
    assert store.build(Note, key("one"), writer("one", calls)) == one
    store.forget(key("two"))
    store.build(Note, key("two"), writer("two", calls))
    assert calls == ["one", "two", "one", "two"]


def test_a_store_that_can_be_written_says_so(root: str) -> None:
    open_store(root).check()
