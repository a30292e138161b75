"""Every kind of location of a store."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(params=["folder", "file-url", pytest.param("s3", marks=pytest.mark.slow)])
def root(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An ``artifact_root`` with nothing there yet."""
    monkeypatch.setenv("RETUNE_CACHE", str(tmp_path / "cache"))
    if request.param == "folder":
        return str(tmp_path / "store")
    if request.param == "file-url":
        return f"file://{tmp_path}/remote"
    return f"s3://{request.getfixturevalue('s3').new_bucket()}/team/retune"
