"""Debian packages that tests need: installed where they are missing."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import gettempdir

from filelock import FileLock

LOCK = Path(gettempdir()) / "retune-tests-apt.lock"


def install_packages(programs: Mapping[str, str]) -> None:
    """Install the package (by program) of every program that is not on the path."""
    with FileLock(LOCK):  # tests run side by side, and apt refuses a second one instead of waiting
        missing = sorted({package for program, package in programs.items() if not shutil.which(program)})
        if missing:
            _install(missing)


def _install(packages: Sequence[str]) -> None:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    quiet = ["-o", "Dpkg::Use-Pty=0", "-qq"]
    for command in (["update"], ["install", "-y", "--no-install-recommends", *packages]):
        subprocess.run(
            ["apt-get", command[0], *quiet, *command[1:]],
            check=True,
            env=environment,
            stdout=subprocess.DEVNULL,
        )
