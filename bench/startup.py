"""How long the command takes to start: `python bench/startup.py PROJECT [--rounds 5]`, PROJECT a folder with an index.

Everything is measured by turns with an empty Python program. CPU seconds are those of the process and its children;
the least of the rounds is the one with the least other work on the machine.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

EMPTY = "an empty program"
COMMANDS = {
    EMPTY: ["-c", "pass"],
    "retune --help": ["-m", "assets_pkg.cli", "--help"],
    "retune info": ["-m", "assets_pkg.cli", "info"],
    "import lancedb (a part of search)": ["-c", "import lancedb"],
    "retune search": ["-m", "assets_pkg.cli", "search", "compute the median of numbers"],
    "import assets_pkg.definitions": ["-c", "import assets_pkg.definitions"],
    "import sentence_transformers": ["-c", "import sentence_transformers"],
}


def cost(arguments: list[str], folder: Path) -> tuple[float, float]:
    """CPU and wall seconds of a Python process with these arguments in ``folder``."""
    before, started = os.times(), time.perf_counter()
    subprocess.run([sys.executable, *arguments], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    wall, after = time.perf_counter() - started, os.times()
    return (
        after.children_user + after.children_system - before.children_user - before.children_system,
        wall,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("project", type=Path, help="a project with an index")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    if not (options.project / "retune.yaml").is_file():
        parser.error(f"{options.project} is no project (retune.yaml): `make demo` makes one in demo/")
    root = str(Path(__file__).parents[1])
    os.environ["PYTHONPATH"] = os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])
    costs: dict[str, list[tuple[float, float]]] = {name: [] for name in COMMANDS}
    for number in range(options.rounds + 1):
        for name, arguments in COMMANDS.items():
            measured = cost(arguments, options.project)
            if number:  # the first round warms the disk's cache
                costs[name].append(measured)
    empty = min(cpu for cpu, _ in costs[EMPTY])
    print("| | CPU seconds | wall seconds | CPU, times an empty program |")
    print("|---|---|---|---|")
    for name, measured in costs.items():
        cpu, wall = (min(values) for values in zip(*measured, strict=True))
        print(f"| {name} | {cpu:.2f} | {wall:.2f} | {cpu / empty:.0f} |")


if __name__ == "__main__":
    main()
