"""Retune's public names under the name of the product: ``from retune import build_definitions``."""

from typing import TYPE_CHECKING

import assets_pkg
from assets_pkg import __all__ as __all__

if TYPE_CHECKING:
    from assets_pkg import Profile as Profile
    from assets_pkg import RetuneComponent as RetuneComponent
    from assets_pkg import build_definitions as build_definitions
    from assets_pkg import load_artifact as load_artifact
    from assets_pkg import load_profile as load_profile
    from assets_pkg import step_processes as step_processes

__getattr__ = assets_pkg.__getattr__
__dir__ = assets_pkg.__dir__
