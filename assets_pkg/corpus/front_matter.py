"""Front matter: the fields at the top of a document, as YAML between lines of ``---`` or TOML between ``+++``."""

from __future__ import annotations

import re
import tomllib
from typing import Any

import yaml
from yaml.composer import ComposerError
from yaml.parser import ParserError
from yaml.scanner import ScannerError

from storage.errors import RetuneError
from storage.formats.yaml_values import UniqueKeyLoader

MAX_CHARACTERS = 100_000
MAX_DEPTH = 20
"""Of values within values. What is deeper was not written by hand, and exhausts the stack of what reads it."""

_YAML = re.compile(r"\A---[ \t]*\n(.*?)^(?:---|\.\.\.)[ \t]*(?:\n|\Z)", re.DOTALL | re.MULTILINE)
_TOML = re.compile(r"\A\+\+\+[ \t]*\n(.*?)^\+\+\+[ \t]*(?:\n|\Z)", re.DOTALL | re.MULTILINE)
_FIELD = re.compile(r"\A(?:[ \t]*(?:#.*)?\n)*[\"']?\w[\w.-]*(?: [\w.-]+){0,2}[\"']?[ \t]*[:=](?:\s|\Z)")
_WRITTEN_AS_NUMBER = re.compile(r"[-+]?(?:0|[1-9][0-9_]*|0x[0-9a-fA-F_]+|0b[01_]+)")
_MAX_DIGITS = 40
"""A longer number is not computed at all: 64 bits have 20 digits, and Python refuses 4,300."""


class FrontMatterError(RetuneError, ValueError):
    """A block that was meant as front matter and cannot be used; the message says where and why."""


def split_front_matter(text: str) -> tuple[dict[Any, Any], str]:
    """The fields of a text's front matter, and the text after it; no fields if it does not begin with one.

    Lines of dashes around something else (a rule above prose) belong to the text.

    Raises:
        FrontMatterError: a block of ``name: value`` lines cannot be read, or has aliases or values nested too deep.
    """
    for pattern, load in ((_YAML, _load_yaml), (_TOML, _load_toml)):
        if match := pattern.match(text):
            fields = _fields(match[1], load)
            return (fields, text[match.end() :]) if fields is not None else ({}, text)
    return {}, text


def _fields(block: str, load: Any) -> dict[Any, Any] | None:
    """The block's fields; None if it was not meant as front matter."""
    try:
        if len(block) > MAX_CHARACTERS:
            raise FrontMatterError(f"it has {len(block):,} characters, more than {MAX_CHARACTERS:,}")
        fields = load(block)
    except FrontMatterError:
        if _FIELD.match(block) is None:
            return None
        raise
    return fields if isinstance(fields, dict) else None


def _load_yaml(block: str) -> Any:
    try:
        return yaml.load(block, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f"line {mark.line + 2}: " if mark else ""  # the line of dashes is the first
        hint = " (a value with a colon or that begins with a sign needs quotes)" if _is_syntax(error) else ""
        raise FrontMatterError(f"{line}{error.problem or error.context}{hint}") from error
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError) as error:
        # The last three: the constructors of explicitly tagged values (``!!bool x``) do not check them.
        raise FrontMatterError(f"{type(error).__name__}: {error}".partition("\n")[0]) from error


def _is_syntax(error: yaml.MarkedYAMLError) -> bool:
    return isinstance(error, ScannerError | ParserError)


def _load_toml(block: str) -> Any:
    try:
        return tomllib.loads(block)
    except RecursionError as error:
        raise FrontMatterError("TOML: values are nested too deep") from error
    except ValueError as error:  # its own error is one
        raise FrontMatterError(f"TOML: {error}") from error


class _Loader(UniqueKeyLoader):
    """Reads YAML as :class:`UniqueKeyLoader` does, but refuses what can exhaust memory, time or the stack, and keeps as
    text the numbers and dates whose spelling YAML 1.1 reads as something else."""

    _depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark
            raise ComposerError(None, None, "an alias (*name): write the value out", mark)
        self._depth += 1
        if self._depth > MAX_DEPTH:
            mark = self.peek_event().start_mark
            problem = f"values are nested more than {MAX_DEPTH} deep"
            raise ComposerError(None, None, problem, mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def construct_number(self, node: Any) -> Any:
        """A whole number; text where the value is not the one that is written: with a leading zero (octal in YAML
        1.1), with colons (base 60), or very long."""
        text = self.construct_scalar(node)
        if not _WRITTEN_AS_NUMBER.fullmatch(text) or len(text) > _MAX_DIGITS:
            return text
        return self.construct_yaml_int(node)

    def construct_decimal(self, node: Any) -> Any:
        text = self.construct_scalar(node)
        return text if ":" in text else self.construct_yaml_float(node)

    def construct_date(self, node: Any) -> Any:
        try:
            return self.construct_yaml_timestamp(node)
        except ValueError:  # such as 2024-02-31
            return self.construct_scalar(node)


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_number)
_Loader.add_constructor("tag:yaml.org,2002:float", _Loader.construct_decimal)
_Loader.add_constructor("tag:yaml.org,2002:timestamp", _Loader.construct_date)
