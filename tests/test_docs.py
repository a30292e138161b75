"""The documents name what is there: paths, links, and the packages of the architecture picture."""

from __future__ import annotations

import re
import runpy
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
