"""LanceDB, imported without the REST clients of its namespaces: a local database needs none of them."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from typing import Any

CLIENTS = "lance_namespace_urllib3_client"
"""Its ``__init__`` imports a client for every endpoint, each method of which pydantic wraps: a third of the processor
time of ``import lancedb``, which itself imports only ``.models`` of the package."""


def import_lancedb() -> Any:
    """The module ``lancedb``. The clients are loaded when something asks their package for one."""
    if CLIENTS not in sys.modules:
        _put_off(CLIENTS)
    return importlib.import_module("lancedb")


def _put_off(name: str) -> None:
    """Let the package's submodules be imported, and run its own ``__init__`` when an attribute of it is wanted."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.loader is None:
        return  # a version of LanceDB without it
    package, loader = importlib.util.module_from_spec(spec), spec.loader

    def load(attribute: str) -> Any:
        if attribute.startswith("__"):  # asked for by Python itself, of any module
            raise AttributeError(attribute)
        vars(package).pop("__getattr__", None)
        loader.exec_module(package)
        return getattr(package, attribute)

    vars(package)["__getattr__"] = load  # https://peps.python.org/pep-0562/
    sys.modules[name] = package
