"""Two users on one artifact root: the second is told which folder is closed to him, before anything is written."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from resources.chat_model.cache import AnswerCache
from storage.artifact_store import ArtifactStore
from storage.embedding_cache import EmbeddingCache
from tests.second_user import GROUP, as_second_user, hand_over, let_everybody_reach
from tests.storage.notes import Note, key, writer


def check(root: Path) -> None:
    ArtifactStore(root).check()


def keep_vector(root: Path) -> None:
    EmbeddingCache(root / "vectors").put("model", ["second"], np.ones((1, 4), np.float32))


def keep_answer(root: Path) -> None:
    answers = AnswerCache(root / "answers.sqlite")
    assert answers.get(b"first") == "yes"
    answers.put(b"second", "no")
    answers.close()


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


@pytest.mark.parametrize("use", [keep_vector, keep_answer])
def test_with_umask_002_what_the_first_user_cached_is_used_and_added_to(
    shared: ArtifactStore, use: Callable[[Path], None]
) -> None:
    former = os.umask(0o002)
    try:
        EmbeddingCache(shared.root / "vectors").put("model", ["first"], np.ones((1, 4), np.float32))
        answers = AnswerCache(shared.root / "answers.sqlite")
    finally:
        os.umask(former)
    answers.put(b"first", "yes")  # and the first user's process goes on
    for path in (shared.root, *shared.root.rglob("*")):
        os.chown(path, -1, GROUP)
    shared.root.chmod(0o775)
    assert as_second_user(use, shared.root) == ""
    if use is keep_answer:
        assert answers.get(b"second") == "no"
    else:
        assert set(EmbeddingCache(shared.root / "vectors").get("model", ["first", "second"])) == {
            "first",
            "second",
        }
    answers.close()
