"""What importing the search API loads."""

from __future__ import annotations

import subprocess
import sys

import pytest

CODE = """
import sys
from pathlib import Path
from assets_pkg.config.profile_files import load_profile
from assets_pkg.reindex.searcher import checkpoint_encoder
from storage.artifact_store import ArtifactStore
from storage.artifacts import Checkpoint
assert "torch" not in sys.modules
folder = Path(sys.argv[1])
with checkpoint_encoder(ArtifactStore(folder), load_profile("laptop").model, Checkpoint(folder, "checkpoint", "c1")):
    print(sorted({"dagster", "transformers"} & set(sys.modules)))
"""


@pytest.mark.slow
def test_search_and_its_encoder_need_no_dagster(tmp_path) -> None:
    command = [sys.executable, "-c", CODE, str(tmp_path)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
