"""Two users on one artifact root: the second is told which folder is closed to him, before anything is written."""

from __future__ import annotations

from pathlib import Path

import pytest

from storage.artifact_store import ArtifactStore
from tests.second_user import as_second_user, hand_over, let_everybody_reach
from tests.storage.notes import Note, key, writer


def check(root: Path) -> None:
    ArtifactStore(root).check()


def check_as_second_user(root: Path) -> str:
    return as_second_user(check, root)


@pytest.fixture
def shared(tmp_path: Path) -> ArtifactStore:
    """A store that the first user has built in, below folders that everybody may enter."""
    let_everybody_reach(tmp_path)
    store = ArtifactStore(tmp_path / "output")
    store.build(Note, key(), writer("of the first user", []))
    return store


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


@pytest.mark.parametrize("closed", ["..", ".", "artifacts", "keys"])
def test_a_folder_that_may_not_be_entered_is_told(shared: ArtifactStore, closed: str) -> None:
    hand_over(shared.root, 0o775)
    (shared.root / closed).chmod(0o700)
    says = check_as_second_user(shared.root)
    assert says.startswith(f"{shared.root / closed if closed != '..' else shared.root}"), says
    assert "by this user: " in says
    assert "another artifact_root" in says


def test_with_umask_002_the_second_user_may_write(shared: ArtifactStore) -> None:
    hand_over(shared.root, 0o775)
    assert check_as_second_user(shared.root) == ""
