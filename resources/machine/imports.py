"""Importing large libraries in less time."""

from __future__ import annotations

import atexit
import gc
import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

from storage.progress import Note

NEW_OBJECTS = 50_000
"""How many more objects than before start a search for garbage, instead of Python's 700 or 2,000."""

SIMILARITY = "sentence_transformers.util.similarity"
"""The only module imported with a model that needs scikit-learn, and only for the Manhattan distance of sparse
vectors. With scikit-learn come all of SciPy's statistics: a fifth of the processor time of the whole import."""

LAZY_MODULES = "transformers.utils.import_utils"
"""transformers reads the sources of all its models to know their classes, and then those of each folder again: a tenth
of the processor time of the whole import."""

LIBRARY = "sentence_transformers"
"""With it come torch, transformers and datasets: half a million objects that stay."""


def spare_imports() -> None:
    """Make what is imported from now on cost less.

    Python searches for garbage less often, no longer in what is there once sentence-transformers is imported, and not
    at all when the process ends. What importing torch and its like makes stays as long as the process; to go through it
    again and again takes a quarter of the time of the import, and 0.3 seconds whenever a model's memory is freed.
    scikit-learn is not imported with sentence-transformers, but when it is used. transformers reads its own sources
    once, not twice.
    """
    gc.set_threshold(NEW_OBJECTS)
    atexit.register(gc.freeze)
    if not any(isinstance(finder, _Sparing) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Sparing())


def announce_import(note: Note) -> None:
    """Say that the libraries will be imported, which takes a while, unless they are."""
    if LIBRARY not in sys.modules:
        note("importing torch and transformers (the first time after an installation: some 20 seconds)")


class _Sparing(MetaPathFinder):
    """Finds the modules in :data:`AROUND` as Python does, and lets them be run by what is given there."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in AROUND:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            run = partial(AROUND[fullname], spec.loader.exec_module)
            vars(spec.loader)["exec_module"] = run
        return spec


def _without_scikit_learn(run: Callable[[ModuleType], None], module: ModuleType) -> None:
    if "sklearn" in sys.modules:
        return run(module)
    try:
        with _stand_in():
            run(module)
    except ImportError:  # a version that imports more of it
        run(module)


def _reading_sources_once(run: Callable[[ModuleType], None], module: ModuleType) -> None:
    run(module)
    name = "create_import_structure_from_path"
    if hasattr(module, name):  # it calls itself, by this name, for the folders below
        setattr(module, name, cache(getattr(module, name)))


def _then_left_out_of_searches(run: Callable[[ModuleType], None], module: ModuleType) -> None:
    """No model is loaded yet, which would be left out, too, and never be freed."""
    run(module)
    gc.freeze()


AROUND = {
    SIMILARITY: _without_scikit_learn,
    LAZY_MODULES: _reading_sources_once,
    LIBRARY: _then_left_out_of_searches,
}


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
