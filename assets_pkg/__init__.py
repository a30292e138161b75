"""Retune as a part of another Dagster project: what that project may import from here.

Everything is imported when it is first asked for: the embedding server and jobs import this package too, and need none
of it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from assets_pkg.build import build_definitions
    from assets_pkg.config.profile import Profile, load_profile
    from assets_pkg.orchestration.downstream import load_artifact

__all__ = ["Profile", "build_definitions", "load_artifact", "load_profile"]

_HOMES = {
    "Profile": "assets_pkg.config.profile",
    "build_definitions": "assets_pkg.build",
    "load_artifact": "assets_pkg.orchestration.downstream",
    "load_profile": "assets_pkg.config.profile",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
