"""Every script loads: what it names of Retune exists, and the settings that it asks for are settings."""

from __future__ import annotations

import os

import pytest

from tests.bench.conftest import BENCH, load_script


@pytest.mark.parametrize("name", sorted(path.stem for path in BENCH.glob("*.py")))
def test_a_script_loads(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", os.environ.copy())  # some set how many threads compute
    assert callable(load_script(name).main)
