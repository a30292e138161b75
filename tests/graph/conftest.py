"""One finished project for all processes of a session, copied for each test that changes it."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from tests.conftest import made_once, write_corpus, write_profile
from tests.graph.embedded import FILE, written_to
from tests.graph.harness import Project
from tests.graph.launchpad import IN_THIS_PROCESS


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """A project after a whole run without a server: documents to index."""

    def make(home: Path) -> None:
        write_corpus(home / "documents")
        (home / "dagster").mkdir()
        with (
            dg.DagsterInstance.local_temp(str(home / "dagster"), overrides=IN_THIS_PROCESS) as instance,
            contextlib.chdir(home),
            written_to(home / FILE),
        ):
            Project(_profile(home, tiny_model), instance).run()

    return made_once(tmp_path_factory, "finished-project", make)


@pytest.fixture
def project(finished: Path, tiny_model: Path, tmp_path: Path) -> Iterator[Project]:
    """A copy of the finished project that the test may change."""
    home = tmp_path / "project"
    shutil.copytree(finished, home, symlinks=True)
    with dg.DagsterInstance.local_temp(str(home / "dagster"), overrides=IN_THIS_PROCESS) as instance:
        yield Project(_profile(home, tiny_model), instance)


def _profile(home: Path, model: Path) -> Path:
    # The artifacts' and the corpus's places are settings of no asset but the corpus: keep that one fixed.
    return write_profile(home / "profile.yaml", corpus=Path("documents"), model=model, root=home / "output")
