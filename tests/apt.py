"""Debian packages that tests need: installed where they are missing, or unpacked without installing."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from tempfile import gettempdir

from filelock import FileLock

LOCK = Path(gettempdir()) / "retune-tests-apt.lock"


def install_packages(programs: Mapping[str, str]) -> None:
    """Install the package (by program) of every program that is not on the path."""
    with FileLock(LOCK):  # tests run side by side, and apt refuses a second one instead of waiting
        missing = sorted({package for program, package in programs.items() if not shutil.which(program)})
        if missing:
            _apt_get("update")
            _apt_get("install", "-y", "--no-install-recommends", *missing)


def unpack_package(package: str, folder: Path) -> None:
    """Put a package's files under ``folder``; nothing is installed or started."""
    with FileLock(LOCK):
        try:
            _apt_get("download", package, cwd=folder)
        except subprocess.CalledProcessError:  # its lists are missing, or name a version that has gone
            _apt_get("update")
            _apt_get("download", package, cwd=folder)
    for archive in folder.glob("*.deb"):
        subprocess.run(["dpkg-deb", "-x", archive, folder], check=True)
        archive.unlink()


def _apt_get(command: str, *arguments: str, cwd: Path | None = None) -> None:
    subprocess.run(
        ["apt-get", command, "-o", "Dpkg::Use-Pty=0", "-o", "APT::Sandbox::User=root", "-qq", *arguments],
        check=True,
        cwd=cwd,
        env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
        stdout=subprocess.DEVNULL,
    )
