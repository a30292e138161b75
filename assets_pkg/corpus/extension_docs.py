"""Docstrings of the interpreter's built-in and extension modules, as JSON on standard output.

Run as a program by an isolated interpreter (``python -I -S extension_docs.py MODULE...``): importing these modules
has no effect on the calling process, and the calling process (a replaced ``sys.excepthook``, a module of the same
name on the path) has none on the result. It imports nothing of Retune.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import inspect
import json
import re
import sys
from collections.abc import Iterator
from types import ModuleType


def entries_of(public: str) -> list[list[str]]:
    """``[name, arguments, docstring]`` of all documented public names of a module and of its accelerator.

    What a module such as ``decimal`` imports from its accelerator ``_decimal`` is listed under the public name.
    """
    found: dict[str, list[str]] = {}
    for name in (public, f"_{public}"):
        module = _import_extension(name)
        if module is None:
            continue
        if name == public and module.__doc__:
            found.setdefault(public, [public, "", inspect.cleandoc(module.__doc__)])
        for entry in _members(module, public):
            found.setdefault(entry[0], entry)
    return list(found.values())


def _import_extension(name: str) -> ModuleType | None:
    """The module, if it is part of the standard library and has no Python source."""
    if name not in sys.stdlib_module_names:
        return None
    if name not in sys.builtin_module_names:
        spec = importlib.machinery.PathFinder.find_spec(name)
        if spec is None or not isinstance(spec.loader, importlib.machinery.ExtensionFileLoader):
            return None
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def _members(owner: ModuleType | type, scope: str) -> Iterator[list[str]]:
    for name, member in sorted(vars(owner).items()):
        if name.startswith("_") or not (inspect.isclass(member) or inspect.isroutine(member)):
            continue
        if doc := _own_doc(member):
            arguments, body = _signature(member, name, doc)
            yield [f"{scope}.{name}", arguments, body]
        if inspect.isclass(member) and isinstance(owner, ModuleType):
            yield from _members(member, f"{scope}.{name}")


def _own_doc(member: object) -> str:
    """The docstring of this class or routine itself, not an inherited one."""
    doc = vars(member).get("__doc__") if inspect.isclass(member) else getattr(member, "__doc__", None)
    return inspect.cleandoc(doc) if isinstance(doc, str) else ""


def _signature(member: object, name: str, doc: str) -> tuple[str, str]:
    """The arguments as the module declares them, and the docstring without them.

    ``inspect.signature`` would evaluate default values, which depend on what else was imported.
    """
    declared = getattr(member, "__text_signature__", None)
    if declared and not inspect.isclass(member):
        return re.sub(r"\$\w+(, /)?(, )?", "", declared), doc
    match = re.match(rf"{re.escape(name)}(?P<arguments>\(.*\))(?: *->.*)?(?:\n\s*|$)", doc)
    if match and match.end() < len(doc):
        return ("" if inspect.isclass(member) else match["arguments"]), doc[match.end() :]
    return "", doc


if __name__ == "__main__":
    sys.stdout.write(json.dumps({module: entries_of(module) for module in sys.argv[1:]}))
