"""Writes ``constraints.txt``: the version of every library in this environment that Retune and its extras need.

    make .venv/installed-dev && .venv/bin/python docs/write_constraints.py

torch stays as it is there: the environment may have a build of the user's own.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

CONSTRAINTS = Path(__file__).parents[1] / "constraints.txt"
PROJECT = "retune-embed"
EXTRAS = ("dev",)
"""What ``make .venv/installed-dev`` installs; the other extras have clients of clouds that no test has."""

OF_ITS_OWN = re.compile("torch|triton|nvidia-(?!ml-py).*|cuda-.*")
"""Libraries that come with a build of torch."""


def needed() -> dict[str, str]:
    """The version of each library that the project needs here, directly or through another, by its own name."""
    found: dict[str, str] = {}
    seen: set[tuple[str, frozenset[str]]] = set()
    waiting = [Requirement(f"{PROJECT}[{','.join(EXTRAS)}]")]
    while waiting:
        wanted = waiting.pop()
        name, extras = canonicalize_name(wanted.name), frozenset(wanted.extras)
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        here = distribution(name)
        if name != PROJECT and not OF_ITS_OWN.fullmatch(name):
            found[here.name] = here.version
        waiting += _requirements(here.requires or (), extras)
    return dict(sorted(found.items(), key=lambda each: f"{each[0]}==".lower()))


def _requirements(texts: Collection[str], extras: Collection[str]) -> Iterator[Requirement]:
    """Those of a library that apply here."""
    for wanted in map(Requirement, texts):
        if wanted.marker is None or any(wanted.marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            yield wanted


def written(text: str) -> str:
    """The file with the versions of this environment in place of its own; its head and torch stay."""
    lines = text.splitlines()
    head = [line for line in lines if line.startswith(("#", "torch=="))]
    return "\n".join([*head, *(f"{name}=={version}" for name, version in needed().items()), ""])


if __name__ == "__main__":
    CONSTRAINTS.write_text(written(CONSTRAINTS.read_text("utf-8")), "utf-8")
