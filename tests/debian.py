"""Programs that the tests use and pip does not have: Debian's packages, installed as root when missing."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence

WAIT_FOR_OTHERS = "DPkg::Lock::Timeout=300"


def install(programs: Sequence[str], packages: Sequence[str]) -> None:
    """Install ``packages`` unless every one of ``programs`` is on the path."""
    if all(shutil.which(program) for program in programs):
        return
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    options = ["-o", WAIT_FOR_OTHERS, "-o", "Dpkg::Use-Pty=0", "-qq"]
    for arguments in (["update"], ["install", "-y", "--no-install-recommends", *packages]):
        command = ["apt-get", *options, *arguments]
        subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
