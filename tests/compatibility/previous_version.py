"""The version of Retune before the code was laid out anew, out of the history of this checkout; its command runs in
processes of their own."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.command.conftest import Workplace

REVISION = "d0fa9afb606331414678d713a817fb5cdccd937f"
"""What this version must still read. When a change means to make artifacts anew, the revision with that change is
the one to name here."""

CHECKOUT = Path(__file__).resolve().parents[2]
TIMEOUT_S = 300

PROMOTED = "(the promoted model)"
"""An argument that becomes the version that is promoted when its command begins."""

# The command as it was in the previous version: it stays when this version's changes.
ONE_AFTER_ANOTHER = f"""
import json, sys
from pathlib import Path
from assets_pkg.cli.main import app
for arguments in json.loads(sys.argv[1]):
    promoted = Path("output/promoted_model").resolve().name
    arguments = [promoted if each == "{PROMOTED}" else each for each in arguments]
    if app(arguments, standalone_mode=False):
        sys.exit(f"failed: {{arguments}}")
"""


def why_absent() -> str:
    """Why the revision cannot be had here; nothing if it can."""
    if shutil.which("git") is None:
        return "no git here to take the previous version from the history"
    command = ["git", "-C", str(CHECKOUT), "cat-file", "-e", f"{REVISION}^{{commit}}"]
    asked = subprocess.run(command, capture_output=True, text=True, check=False)
    if asked.returncode == 0:
        return ""
    return f"no history with the previous version ({REVISION[:7]}) here: {asked.stderr.strip()}"


@dataclass(frozen=True)
class Code:
    """A tree of Retune's source, run instead of whatever is installed."""

    tree: Path

    def retune_each(self, place: Workplace, commands: Sequence[Sequence[str]]) -> None:
        """Several commands of the previous version in one process, which loads torch but once."""
        self._python(place, "-c", ONE_AFTER_ANOTHER, json.dumps(commands))

    def packages(self, place: Workplace) -> Iterator[Path]:
        """The folders that the command's packages are imported from."""
        names = "assets_pkg, resources, storage"
        printed = self._python(place, "-c", f"import {names}\nfor each in ({names}): print(each.__path__[0])")
        return map(Path, printed.splitlines())

    def _python(self, place: Workplace, *arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=place.home,
            # Comes before the editable install, which is of the checkout.
            env={**place.environment, "PYTHONPATH": str(self.tree)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout


def extract_previous(folder: Path) -> Code:
    """The revision's whole tree, in ``folder``."""
    command = ["git", "-C", str(CHECKOUT), "archive", "--format=tar", REVISION]
    archive = subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        tar.extractall(folder, filter="data")
    return Code(folder)


NOW = Code(CHECKOUT)
"""This version."""
