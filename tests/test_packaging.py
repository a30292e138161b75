"""What an installation has beside Python files: every file that the code reads is declared as package data."""

from __future__ import annotations

import runpy
import tomllib
from importlib.metadata import distribution
from pathlib import Path

from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

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


def test_the_constraints_have_every_library_that_these_tests_run_with() -> None:
    """Whatever an installation may fetch has one version, so that pip and uv install what was tested."""
    needed = runpy.run_path(str(ROOT / "docs/write_constraints.py"))["needed"]
    lines = [line.partition("==") for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines()]
    constrained = {canonicalize_name(name): version for name, _, version in lines if version}
    missing = {
        name: each for name, each in needed().items() if constrained.get(canonicalize_name(name)) != each
    }
    assert missing == {}, "docs/write_constraints.py writes them"


def test_every_library_runs_on_the_first_release_of_the_oldest_python() -> None:
    """Debian 12 has Python 3.11.2: a library that wants 3.11.5 would end the installation there."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    oldest = project["requires-python"].removeprefix(">=") + ".0"
    needed = runpy.run_path(str(ROOT / "docs/write_constraints.py"))["needed"]
    python = {name: distribution(name).metadata.get("Requires-Python") for name in needed()}
    assert {name: each for name, each in python.items() if each and oldest not in SpecifierSet(each)} == {}
