"""A project's ``.env``."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from assets_pkg.config.env_file import EnvFileError, load_env_file

NAMES = ("NVIDIA_API_KEY", "NGC_API_KEY", "HF_TOKEN")


@pytest.fixture(autouse=True)
def no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """The variables are as before after the test, also those that it sets by the file."""
    for name in NAMES:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def write(folder: Path, text: str, mode: int = 0o600) -> Path:
    path = folder / ".env"
    path.write_text(text, "utf-8")
    path.chmod(mode)
    return path


def test_its_variables_are_set_and_the_environment_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NGC_API_KEY", "mine")
    write(tmp_path, "# keys\nNVIDIA_API_KEY=a$b\nexport NGC_API_KEY='theirs'\nHF_TOKEN=\n")
    load_env_file(tmp_path)
    assert os.environ["NVIDIA_API_KEY"] == "a$b"
    assert os.environ["NGC_API_KEY"] == "mine"
    assert os.environ["HF_TOKEN"] == ""


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o606])
def test_one_that_others_can_read_is_not_used(tmp_path: Path, mode: int) -> None:
    path = write(tmp_path, "NVIDIA_API_KEY=secret", mode)
    with pytest.raises(EnvFileError, match=f"chmod 600 {path}") as caught:
        load_env_file(tmp_path)
    assert "secret" not in str(caught.value)
    assert "NVIDIA_API_KEY" not in os.environ


def test_one_that_is_no_text_is_an_error_that_shows_nothing_of_it(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    path.write_bytes(b"NVIDIA_API_KEY=\xff\xfe")
    path.chmod(0o600)
    with pytest.raises(EnvFileError, match="not readable as lines"):
        load_env_file(tmp_path)


def test_without_the_file_nothing_happens(tmp_path: Path) -> None:
    load_env_file(tmp_path)
