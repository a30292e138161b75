"""What a container runs in where its target names no image: Python's own image, with this machine's Retune in it.

The folders of Retune and of its libraries are mounted, so that both sides are the same version, nothing is built, and
nothing but the small image of the interpreter is downloaded.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from resources.compute.errors import ComputeError

BASE_VARIABLE = "RETUNE_BASE_IMAGE"
LIBRARIES = ("site-packages", "dist-packages")


def own_image() -> str:
    """The image of this interpreter's version, or the one that ``RETUNE_BASE_IMAGE`` names.

    Raises:
        ComputeError: this machine's libraries do not run in a Linux container.
    """
    if sys.platform != "linux":
        raise ComputeError(
            "this machine's libraries do not run in a container: set container_image to an image that has Retune, of "
            "the same version as here"
        )
    return os.environ.get(BASE_VARIABLE) or f"python:{sys.version_info.major}.{sys.version_info.minor}-slim"


def own_folders() -> tuple[Path, ...]:
    """The folders that Python finds Retune and its libraries in, in its order."""
    libraries = (Path(entry).resolve() for entry in sys.path if Path(entry).name in LIBRARIES)
    retune = Path(__file__).resolve().parents[2]
    return tuple(dict.fromkeys((retune, *libraries)))
