"""What a command loads before it shows anything."""

from __future__ import annotations

import json
import subprocess
import sys

CODE = """
import atexit, gc, json, sys

def report():  # after what the command itself leaves for the end of the process
    loaded = sorted({"asyncio", "dagster", "numpy", "omegaconf", "pydantic"} & set(sys.modules))
    sys.stderr.write(json.dumps({"loaded": loaded, "spared": gc.get_freeze_count() >= len(sys.modules)}))

atexit.register(report)
sys.argv = ["retune", "--help"]
from assets_pkg.cli.main import main
main()
"""


def test_help_loads_no_settings_and_the_process_ends_without_a_search_for_garbage() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    assert "retune" in done.stdout
    assert "rollback" in done.stdout
    assert json.loads(done.stderr) == {"loaded": [], "spared": True}
