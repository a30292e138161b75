"""Importing large libraries in less time."""

from __future__ import annotations

import atexit
import gc
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

NEW_OBJECTS = 50_000
"""How many more objects than before start a search for garbage, instead of Python's 700 or 2,000."""

SIMILARITY = "sentence_transformers.util.similarity"
"""The only module imported with a model that needs scikit-learn, and only for the Manhattan distance of sparse
vectors. With scikit-learn come all of SciPy's statistics: a fifth of the processor time of the whole import."""


def spare_imports() -> None:
    """Make what is imported from now on cost less.

    Python searches for garbage less often, and not at all when the process ends: what importing torch and its like
    makes, half a million objects, stays as long as the process, and to go through all of it again and again, and once
    more at the end, takes a quarter of the time of the import. scikit-learn is not imported with sentence-transformers,
    but when it is used.
    """
    gc.set_threshold(NEW_OBJECTS)
    atexit.register(gc.freeze)
    if not any(isinstance(finder, _PutsOffScikitLearn) for finder in sys.meta_path):
        sys.meta_path.insert(0, _PutsOffScikitLearn())


class _PutsOffScikitLearn(MetaPathFinder):
    """Lets :data:`SIMILARITY` be run without scikit-learn."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != SIMILARITY or "sklearn" in sys.modules:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _WithoutScikitLearn(spec.loader)
        return spec


class _WithoutScikitLearn(Loader):
    """Runs a module as ``loader`` does, with a stand-in of what it imports from scikit-learn."""

    def __init__(self, loader: Loader):
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        try:
            with _stand_in():
                self._loader.exec_module(module)
        except ImportError:  # a version that imports more of it
            self._loader.exec_module(module)


@contextmanager
def _stand_in() -> Generator[None]:
    """``sklearn.metrics`` with one function, which imports the real one when it is called."""
    package, metrics = ModuleType("sklearn"), ModuleType("sklearn.metrics")
    package.__spec__, package.__path__ = PathFinder.find_spec("sklearn"), []
    vars(metrics)["pairwise_distances"] = _pairwise_distances
    sys.modules.update({"sklearn": package, "sklearn.metrics": metrics})
    try:
        yield
    finally:
        del sys.modules["sklearn"], sys.modules["sklearn.metrics"]


def _pairwise_distances(*args: Any, **kwargs: Any) -> Any:
    return import_module("sklearn.metrics").pairwise_distances(*args, **kwargs)
