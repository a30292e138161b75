"""What kills leave in a store: nothing that the next build or deletion does not take away."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from pathlib import Path

import pytest

from storage.artifact_store import ArtifactStore, BuildKey
from storage.artifacts import Artifact
from storage.files import replaced_by, write_atomic
from storage.manifest import MANIFEST

KEY = BuildKey("notes", "1", {})
TOUCHES = frozenset({"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.symlink", "os.chmod"})
MOST = 40
"""More changes of the file system than any of the operations makes."""


def produce(folder: Path) -> None:
    write_atomic(folder / "note.txt", "a note")
    write_atomic(folder / "deep" / "more.txt", "more")


def build(root: Path) -> None:
    ArtifactStore(root).build(Artifact, KEY, produce)


def remove(root: Path) -> None:
    store = ArtifactStore(root)
    for version in store.versions("notes"):
        store.remove("notes", version)


def link(root: Path) -> None:
    store = ArtifactStore(root)
    for version in store.versions("notes"):
        store.link("stage/current", store.get(Artifact, "notes", version).path)


def _die_at(number: int, operation: str, root: Path) -> None:
    count = 0

    def touch(event: str, arguments: object) -> None:
        nonlocal count
        if event in TOUCHES:
            count += 1
            if count == number:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(touch)
    globals()[operation](root)


def kills(operation: str, root: Path) -> int:
    """Run an operation in processes that are killed at its first change of the file system, its second and so on,
    each on what the others left; returns how many there were until one ended by itself."""
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload([__name__])
    for number in range(1, MOST):
        child = processes.Process(target=_die_at, args=(number, operation, root))
        child.start()
        child.join()
        if child.exitcode == 0:
            return number - 1
        assert child.exitcode == -signal.SIGKILL
        for asset in ArtifactStore(root).assets():
            for version in ArtifactStore(root).versions(asset):
                ArtifactStore(root).verify(ArtifactStore(root).get(Artifact, asset, version), anew=True)
    raise AssertionError(f"{operation} never ended")


def names_below(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


@pytest.mark.slow
def test_a_build_killed_at_each_change_publishes_what_an_undisturbed_one_does(tmp_path: Path) -> None:
    assert kills("build", tmp_path / "killed") >= 3
    build(tmp_path / "whole")
    (version,) = ArtifactStore(tmp_path / "whole").versions("notes")
    assert ArtifactStore(tmp_path / "killed").versions("notes") == [version]
    published = tmp_path / "killed" / "artifacts" / "notes" / version
    assert names_below(published) == {"note.txt", "deep", "deep/more.txt", MANIFEST}


def test_what_a_killed_write_left_in_the_work_folder_is_not_published(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path / "killed")
    work = store.work_folder("notes", KEY.digest)
    (work / "deep").mkdir(parents=True)
    (work / ".note.txt.4711").write_text("a no")
    (work / "deep" / ".more.txt.4711").write_text("")
    build(tmp_path / "whole")
    build(store.root)
    assert store.versions("notes") == ArtifactStore(tmp_path / "whole").versions("notes")


def test_a_deletion_killed_at_each_change_is_finished_later(tmp_path: Path) -> None:
    build(tmp_path)
    store = ArtifactStore(tmp_path)
    store.verify(store.get(Artifact, "notes", store.versions("notes")[0]), anew=True)
    kills("remove", tmp_path)
    for asset, version in list(store.half_removed()):
        store.remove(asset, version)
    assert [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".lock"] == []


def test_each_kill_during_a_deletion_leaves_a_whole_version_or_one_that_is_found(tmp_path: Path) -> None:
    for number in range(1, 7):
        root = tmp_path / str(number)
        build(root)
        child = multiprocessing.get_context("forkserver").Process(
            target=_die_at, args=(number, "remove", root)
        )
        child.start()
        child.join()
        store = ArtifactStore(root)
        folders = {("notes", path.name) for path in (root / "artifacts" / "notes").iterdir()}
        whole = {("notes", version) for version in store.versions("notes")}
        assert folders == whole | set(store.half_removed())
        for asset, version in folders:
            store.remove(asset, version)
        left = [path for path in root.rglob("*") if path.is_file() and path.suffix != ".lock"]
        assert left == []


def test_a_link_is_the_old_or_the_new_one_at_each_kill(tmp_path: Path) -> None:
    build(tmp_path)
    kills("link", tmp_path)
    store = ArtifactStore(tmp_path)
    assert store.linked() == {("notes", store.versions("notes")[0])}


def test_only_temporary_and_damaged_files_stand_for_another() -> None:
    folder = Path("folder")
    assert replaced_by(folder / ".state.json.4711") == folder / "state.json"
    assert replaced_by(folder / "data.mdb.damaged") == folder / "data.mdb"
    for name in ("state.json", "state.json.4711", ".store-id", ".store-id.lock", ".4711"):
        assert replaced_by(folder / name) is None
