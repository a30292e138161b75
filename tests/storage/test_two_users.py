"""Two users on one artifact root: the second is told which folder is closed to him, before anything is written."""

from __future__ import annotations

import multiprocessing
import os
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import gettempdir

import pytest

from storage.artifact_store import ArtifactStore
from storage.errors import ArtifactError
from tests.storage.notes import Note, key, writer

SECOND_USER, GROUP = 65534, 65533


def _check(root: Path, answer: Connection) -> None:
    os.setgroups([])
    os.setresgid(GROUP, GROUP, GROUP)
    os.setresuid(SECOND_USER, SECOND_USER, SECOND_USER)
    try:
        ArtifactStore(root).check()
    except ArtifactError as error:
        answer.send(str(error))
    else:
        answer.send("")


def check_as_second_user(root: Path) -> str:
    """What the check of the store says to a user with another id and the group of the first."""
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload([__name__])
    here, there = processes.Pipe()
    child = processes.Process(target=_check, args=(root, there))
    child.start()
    child.join()
    assert child.exitcode == 0
    return here.recv()


@pytest.fixture
def shared(tmp_path: Path) -> ArtifactStore:
    """A store that the first user has built in, below folders that everybody may enter."""
    for folder in (tmp_path, *tmp_path.parents):
        if folder == Path(gettempdir()):
            break
        folder.chmod(0o755)
    store = ArtifactStore(tmp_path / "output")
    store.build(Note, key(), writer("of the first user", []))
    return store


def hand_over(root: Path, mode: int) -> None:
    """Give the group's right to write, as umask 002 does, or not, as 022."""
    for path in (root, *root.rglob("*")):
        os.chown(path, -1, GROUP)
        if path.is_dir():
            path.chmod(mode)


def test_with_umask_022_the_root_is_named(shared: ArtifactStore) -> None:
    hand_over(shared.root, 0o755)
    assert (
        check_as_second_user(shared.root) == f"{shared.root} cannot be written by this user: "
        "set its permissions, or another artifact_root"
    )


@pytest.mark.parametrize("closed", ["artifacts", "artifacts/notes", "keys", "keys/notes", ".work"])
def test_a_closed_folder_below_is_named(shared: ArtifactStore, closed: str) -> None:
    hand_over(shared.root, 0o775)
    (shared.root / closed).chmod(0o755)
    assert check_as_second_user(shared.root).startswith(f"{shared.root / closed} cannot be written")


def test_with_umask_002_the_second_user_may_write(shared: ArtifactStore) -> None:
    hand_over(shared.root, 0o775)
    assert check_as_second_user(shared.root) == ""
