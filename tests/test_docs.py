"""The documents name what is there: paths, links, and the packages of the architecture picture."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[1]
DOCUMENTS = [CHECKOUT / "README.md", *sorted((CHECKOUT / "docs").glob("*.md"))]
PATH = re.compile(r"`((?:assets_pkg|resources|storage|tests|bench|docs)/[\w./-]*)`")
LINK = re.compile(r"\]\((?!https?:)([^)#]+)[^)]*\)")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_path_and_link_exists(document):
    text = document.read_text("utf-8")
    named = [CHECKOUT / path for path in PATH.findall(text)]
    linked = [document.parent / link for link in LINK.findall(text)]
    assert [str(path) for path in [*named, *linked] if not path.exists()] == []


def test_the_picture_of_the_graph_shows_every_asset():
    drawing = runpy.run_path(str(CHECKOUT / "docs/draw_graph.py"))
    assert set(drawing["PLACES"]) == set(drawing["groups"]()) - drawing["LEFT_OUT"]
    assert set(drawing["SAYS"]) == set(drawing["PLACES"])
    assert set(drawing["groups"]().values()) == set(drawing["COLOURS"])


def test_every_page_is_in_the_site_and_the_readme():
    pages = {path.stem for path in (CHECKOUT / "docs").glob("*.md")} - {"index"}
    listed = re.findall(r"^([a-z-]+)$", (CHECKOUT / "docs/index.md").read_text("utf-8"), re.MULTILINE)
    assert set(listed) == pages
    linked = set(re.findall(r"docs/([a-z-]+)\.md", (CHECKOUT / "README.md").read_text("utf-8")))
    assert pages - linked <= {"remote-models"}, "linked from docs/models.md"


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path):
    """A page that is in no list, a link and an anchor that lead nowhere are warnings."""
    command = [sys.executable, "-m", "sphinx", "--quiet", "--fail-on-warning", "--keep-going"]
    done = subprocess.run(
        [*command, CHECKOUT / "docs", tmp_path], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "troubleshooting.html").exists()


def test_the_settings_reference_is_what_the_code_says():
    written = runpy.run_path(str(CHECKOUT / "docs/write_settings.py"))
    assert (CHECKOUT / "docs/settings.md").read_text("utf-8") == written["page"](), "run: make settings"


def test_the_architecture_picture_shows_every_package():
    layers = runpy.run_path(str(CHECKOUT / "docs/draw_architecture.py"))["LAYERS"]
    drawn = {(layer.folder, name) for layer in layers for name in layer.members}
    there = {
        ("assets_pkg", path.stem)
        for path in (CHECKOUT / "assets_pkg").iterdir()
        if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert {pair for pair in drawn if pair[0] == "assets_pkg"} == there - {("assets_pkg", "__init__")}
    for folder, name in drawn:
        assert (CHECKOUT / folder / name).exists() or (CHECKOUT / folder / f"{name}.py").exists(), name
