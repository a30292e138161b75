"""What an installation has beside Python files: every file that the code reads is declared as package data."""

from __future__ import annotations

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("assets_pkg", "resources", "storage")


def test_every_file_beside_the_code_is_installed() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    declared = project["tool"]["setuptools"]["package-data"]
    installed = {
        path for package, globs in declared.items() for glob in globs for path in (ROOT / package).glob(glob)
    }
    files = {
        path
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc")
    }
    assert {str(path.relative_to(ROOT)) for path in files - installed} == set()
