"""Debian packages that tests need: installed where they are missing."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping


def install_packages(programs: Mapping[str, str]) -> None:
    """Install the package (by program) of every program that is not on the path."""
    missing = sorted({package for program, package in programs.items() if not shutil.which(program)})
    if not missing:
        return
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    quiet = ["-o", "Dpkg::Use-Pty=0", "-qq"]
    for command in (["update"], ["install", "-y", "--no-install-recommends", *missing]):
        subprocess.run(
            ["apt-get", command[0], *quiet, *command[1:]],
            check=True,
            env=environment,
            stdout=subprocess.DEVNULL,
        )
