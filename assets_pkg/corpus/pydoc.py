"""The running interpreter's standard library documentation, one Markdown document per top-level module.

Modules with Python source are parsed by ``ast`` and never imported; only extension and built-in modules are
imported, in a separate process, since they have no source to parse. The text is part of the interpreter (PSF
licence), so nothing is downloaded or shipped.
"""

from __future__ import annotations

import ast
import json
import platform
import re
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from assets_pkg.config.sections.corpus import CorpusSettings
from assets_pkg.corpus.document_source import CorpusError, FileRead, Found, Skipped
from storage.artifacts import Document
from storage.digests import digest_json

PYDOC = "pydoc://"
WHOLE = "stdlib"

EXCLUDED = frozenset({"antigravity", "this", "idlelib", "turtledemo", "test", "readline", "lib2to3"})
"""Modules with side effects on import, and those that are programs or tests rather than a library."""

_NOT_LIBRARY = frozenset({"test", "tests", "_bundled", "site-packages"})
_HEADING_LIKE = re.compile(r"(?m)^(?=#{1,6}\s)")


@dataclass(frozen=True)
class _Entry:
    """One documented name: ``asyncio.run``, ``(main, *, debug=None)`` and its cleaned docstring."""

    name: str
    arguments: str
    doc: str


class StdlibSource:
    """``pydoc://stdlib``: documents named after the public top-level modules, in alphabetical order.
    ``pydoc://json,re``: only those modules.

    Raises:
        CorpusError: a module that is named is not one of them.
    """

    def __init__(self, settings: CorpusSettings) -> None:
        self._min_length = settings.min_text_length
        public = {name for name in sys.stdlib_module_names if name[0] != "_" and name not in EXCLUDED}
        named = settings.corpus_dir.removeprefix(PYDOC)
        chosen = public if named == WHOLE else {name.strip() for name in named.split(",")}
        if unknown := chosen - public:
            raise CorpusError(
                f"corpus.corpus_dir = {settings.corpus_dir!r}: {', '.join(map(repr, sorted(unknown)))} is no public "
                f"module of the standard library; {PYDOC}{WHOLE} reads all of them"
            )
        self._names = sorted(chosen)[: settings.num_files]

    def __len__(self) -> int:
        return len(self._names)

    def describe_empty(self) -> str:
        return "this interpreter lists no standard library modules"

    def read(self) -> Iterator[FileRead]:
        for name in self._names:
            made = self._document(name)
            yield FileRead(name, "", [Found(made) if isinstance(made, Document) else made])

    def left_out(self) -> list[Skipped]:
        return []

    def other_files(self) -> dict[str, int]:
        return {}

    def not_read(self) -> Iterable[Skipped]:
        return []

    def files_by_type(self) -> dict[str, int]:
        return {}

    def figures(self) -> dict[str, int]:
        return {}

    def fingerprint(self, digests: list[tuple[str, str]]) -> str:
        return self.current_fingerprint()

    def current_fingerprint(self) -> str:
        """Digest of the interpreter's version and platform: its documentation changes only with them."""
        return digest_json([sys.implementation.name, platform.python_version(), sys.platform])

    def _document(self, module: str) -> Document | Skipped:
        entries: dict[str, _Entry] = {}
        for entry in self._entries(module):
            entries.setdefault(entry.name, entry)
        if not entries:
            return Skipped(module, "no documentation", "not on this platform, or without docstrings")
        text = "\n\n".join(_rendered(entry, module) for entry in entries.values()) + "\n"
        if len(text) < self._min_length:
            return Skipped(module, "too short", f"{len(text)} characters, corpus.min_text_length is larger")
        return Document(doc_id=module, title=module, text=text)

    def _entries(self, module: str) -> Iterator[_Entry]:
        """All documented names of a module, in the order of the source; names can repeat."""
        yield from _from_source(module)
        yield from (_Entry(*entry) for entry in self._of_extensions[module])

    @cached_property
    def _of_extensions(self) -> dict[str, list[list[str]]]:
        program = Path(__file__).with_name("extension_docs.py")
        command = [sys.executable, "-I", "-S", str(program), *self._names]
        done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=False)
        if done.returncode:
            raise CorpusError(f"{sys.executable} could not read its own documentation: {done.stderr.strip()}")
        return json.loads(done.stdout)


def _rendered(entry: _Entry, module: str) -> str:
    """A Markdown section. Lines of the docstring that look like headings are escaped."""
    steps = entry.name.removeprefix(module).count(".")
    body = _HEADING_LIKE.sub(r"\\", entry.doc)
    return f"{'#' * min(steps + 1, 3)} {entry.name}{entry.arguments}\n\n{body}"


def _from_source(module: str) -> Iterator[_Entry]:
    library = Path(sysconfig.get_path("stdlib"))
    package = library / module
    files = (
        sorted(package.rglob("*.py")) if (package / "__init__.py").exists() else [library / f"{module}.py"]
    )
    for path in files:
        parts = path.relative_to(library).with_suffix("").parts
        if path.exists() and not _NOT_LIBRARY.intersection(parts):
            yield from _of_file(path, [part for part in parts if part != "__init__"])


def _of_file(path: Path, parts: list[str]) -> Iterator[_Entry]:
    if any(part.startswith("_") for part in parts):
        return
    tree = ast.parse(path.read_bytes())
    name = ".".join(parts)
    if doc := ast.get_docstring(tree):
        yield _Entry(name, "", doc)
    yield from _of_body(tree.body, name)


def _of_body(body: list[ast.stmt], scope: str) -> Iterator[_Entry]:
    for node in body:
        if isinstance(node, ast.If | ast.Try | ast.With):
            inner = [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt)]
            yield from _of_body(inner, scope)
        elif isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.name[0] != "_":
            yield from _of_definition(node, f"{scope}.{node.name}")


def _of_definition(
    node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef, name: str
) -> Iterator[_Entry]:
    arguments = "" if isinstance(node, ast.ClassDef) else f"({ast.unparse(node.args)})"
    if doc := ast.get_docstring(node):
        yield _Entry(name, arguments, doc)
    if isinstance(node, ast.ClassDef):
        yield from _of_body(node.body, name)
