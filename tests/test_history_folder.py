"""The folder with the history of runs where the user may not read or write it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from tempfile import mkdtemp

import dagster as dg
import pytest

from assets_pkg.orchestration.instance import explain_closed_history, open_instance
from storage.errors import RetuneError
from tests.second_user import as_second_user, hand_over, let_everybody_reach


def make_history() -> Path:
    home = Path(mkdtemp()) / ".dagster"
    os.environ["DAGSTER_HOME"] = str(home)
    open_instance().dispose()
    return home


def begin_run(home: Path) -> None:
    os.environ["DAGSTER_HOME"] = str(home)
    with open_instance() as instance:
        try:
            instance.create_run_for_job(dg.GraphDefinition("job").to_job())
        except Exception as error:
            raise RetuneError(explain_closed_history(error)) from error


def close_folder(home: Path) -> None:
    home.chmod(0o700)


def close_parent(home: Path) -> None:
    home.parent.chmod(0o700)


def close_configuration(home: Path) -> None:
    (home / "dagster.yaml").chmod(0o600)


def close_databases(home: Path) -> None:
    for path in home.rglob("*.db"):
        path.chmod(0o600)


def protect_databases(home: Path) -> None:
    for path in home.rglob("*.db"):
        path.chmod(0o644)


@pytest.mark.slow
@pytest.mark.parametrize(
    "close", [close_folder, close_parent, close_configuration, close_databases, protect_databases, None]
)
def test_a_closed_history_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, close: Callable[[Path], None] | None
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "shared" / ".dagster"))
    home = tmp_path / "shared" / ".dagster"
    open_instance().dispose()
    let_everybody_reach(tmp_path)
    hand_over(tmp_path / "shared", 0o775)
    for path in home.rglob("*"):
        if path.is_file():
            path.chmod(0o664)
    if close is not None:
        close(home)
    says = as_second_user(begin_run, home, first=make_history)
    if close is None:
        assert says == ""
    else:
        assert says.startswith(f"the history of runs in {home}"), says
        assert "cannot be written by this user: set the permissions" in says
