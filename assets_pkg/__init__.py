"""Retune as a part of another Dagster project: what that project may import from here, or from ``retune``.

Everything is imported when it is first asked for: the embedding server and jobs import this package too, and need none
of it.
"""

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from assets_pkg.build import build_definitions
    from assets_pkg.component import RetuneComponent
    from assets_pkg.config.profile import Profile
    from assets_pkg.config.profile_files import load_profile
    from assets_pkg.orchestration.downstream import load_artifact
    from assets_pkg.orchestration.executor import step_processes

__all__ = [
    "Profile",
    "RetuneComponent",
    "build_definitions",
    "load_artifact",
    "load_profile",
    "step_processes",
]

_HOMES = {
    "Profile": "assets_pkg.config.profile",
    "RetuneComponent": "assets_pkg.component",
    "build_definitions": "assets_pkg.build",
    "load_artifact": "assets_pkg.orchestration.downstream",
    "load_profile": "assets_pkg.config.profile_files",
    "step_processes": "assets_pkg.orchestration.executor",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__


# ---- modules of the host that are called as packages of Retune ---------------------------------------------------

_ROOT = Path(__file__).parents[1]
_SHARED = ("resources", "storage")
"""Packages of Retune with plain names. They hold no names of their own, only modules."""


class _BesideModulesOfTheHost(MetaPathFinder):
    """Lets a project that works with Retune have a ``resources.py`` or ``storage.py`` too, or a package of that name.

    The project's own is found first and stays what it is. It gets Retune's folder as one more place of submodules, so
    that ``resources.encoders`` is Retune's.
    """

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        package, _, name = fullname.partition(".")
        if package not in _SHARED or "." in name:
            return None
        if name:
            _require_free(package, name)
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None:
            spec.submodule_search_locations = _with_ours(fullname, spec.submodule_search_locations)
        return spec


def _with_ours(package: str, places: Sequence[str] | None) -> list[str]:
    ours = str(_ROOT / package)
    return [*(places or ()), *([] if ours in (places or ()) else [ours])]


def _require_free(package: str, name: str) -> None:
    """Check that Retune's module ``package.name`` hides nothing of the project's own, nor is hidden.

    Raises:
        ImportError: it is; the message says what to rename.
    """
    found = sys.modules.get(package)
    others = [Path(place) for place in getattr(found, "__path__", ()) if Path(place) != _ROOT / package]
    ours = any((_ROOT / package / each).exists() for each in (name, f"{name}.py"))
    hidden = any(
        (place / each).exists() for place in others for each in (f"{name}.py", f"{name}/__init__.py")
    )
    own = vars(found).get(name) if found else None
    if ours and (hidden or not (own is None or isinstance(own, ModuleType))):
        raise ImportError(
            f"{getattr(found, '__file__', package)} has a {name!r} of its own, and so has Retune: rename it, or move "
            f"{package} into a package of your project"
        )


def _share() -> None:
    if any(isinstance(finder, _BesideModulesOfTheHost) for finder in sys.meta_path):
        return
    sys.meta_path.insert(0, _BesideModulesOfTheHost())
    for package in _SHARED:
        if (imported := sys.modules.get(package)) is not None:
            imported.__path__ = _with_ours(package, getattr(imported, "__path__", None))


_share()
