"""Every ``retune`` command that the documents show can be typed: command, options and settings exist."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer

from assets_pkg.cli.main import app
from assets_pkg.config.errors import ProfileError
from assets_pkg.config.profile_files import load_profile

CHECKOUT = Path(__file__).parents[1]
DOCUMENTS = [CHECKOUT / "README.md", *sorted((CHECKOUT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(?:bash|sh)\n(.*?)^```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`(retune [^`\n]+)`")
PLACEHOLDER = re.compile(r"\.\.\.|\|")
"""In a line that shows several commands at once."""

COMMAND = typer.main.get_command(app)
WRONG = re.compile(r"no such setting|ambiguous")


def shown_commands() -> Iterator[Any]:
    for document in DOCUMENTS:
        text = document.read_text("utf-8")
        lines = [line for block in BLOCK.findall(text) for line in block.replace("\\\n", " ").splitlines()]
        typed = [part.strip() for line in lines for part in line.split("; ")]
        for line in [*typed, *INLINE.findall(text)]:
            if line.startswith("retune ") and not re.match(r"retune (embed )?STAGE", line):
                yield pytest.param(line, id=f"{document.stem}: {line}")


@pytest.mark.parametrize("line", shown_commands())
def test_the_command_can_be_typed(line: str) -> None:
    words = shlex.split(line.replace("\\|", "|"), comments=True)[1:]
    if words[-1:] == ["&"]:
        words.pop()
    if any(PLACEHOLDER.search(word) and word != "..." and "=" not in word for word in words):
        words = [word.split("|")[0] for word in words]
    command: Any = COMMAND
    while hasattr(command, "commands") and words and not words[0].startswith("-"):
        assert words[0] in command.commands, f"no such command: {words[0]}"
        command = command.commands[words.pop(0)]
    if hasattr(command, "commands"):
        return  # the name of a group, or its own option
    context = command.make_context(command.name, words, resilient_parsing=True)
    given = tuple(setting for setting in context.params.get("overrides") or () if "=" in setting)
    assert WRONG.search(_problem(given, command.name)) is None


@cache
def _problem(overrides: tuple[str, ...], section: str) -> str:
    """What is wrong with settings; with values that stand for others, such as FILE, something may be."""
    try:
        load_profile("laptop", list(overrides), section=section)
    except ProfileError as error:
        return str(error)
    return ""
