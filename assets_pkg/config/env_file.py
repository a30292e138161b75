"""Keys in a project's ``.env``, for those that are not in the environment."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from dotenv import dotenv_values

from storage.errors import RetuneError

ENV_FILE = ".env"
OF_OTHERS = stat.S_IRWXG | stat.S_IRWXO


class EnvFileError(RetuneError):
    """The file is not read; the message says why, and shows nothing of it."""


def load_env_file(folder: Path) -> None:
    """Set the variables of ``.env`` in ``folder`` that the environment does not have; does nothing without the file.

    Raises:
        EnvFileError: other users may read or write it, or it is no text; no variable is set then.
    """
    path = folder / ENV_FILE
    if not path.is_file():
        return
    if os.name == "posix" and path.stat().st_mode & OF_OTHERS:
        raise EnvFileError(f"{path}: other users can read or write it, so it is not used: chmod 600 {path}")
    try:
        # Values as they are written: a `$` in a key starts no variable.
        found = dotenv_values(path, interpolate=False)
    except (OSError, ValueError) as error:
        raise EnvFileError(f"{path}: not readable as lines NAME=value ({type(error).__name__})") from None
    for name, value in found.items():
        if value is not None:
            os.environ.setdefault(name, value)
