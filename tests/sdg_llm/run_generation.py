"""The stage in a process of its own, to be killed or weighed: CORPUS_FOLDER BASE_URL OUTPUT_FOLDER.

Prints its largest resident memory in bytes, looked at after every document.
"""

from __future__ import annotations

import sys
from pathlib import Path

import psutil

sys.path.append(str(Path(__file__).parent))

from material import generate, sdg_settings

from storage.artifacts import Corpus, Passages

process, largest = psutil.Process(), 0


def look(done: int, total: int, unit: str, **figures: float) -> None:
    global largest
    largest = max(largest, process.memory_info().rss)


corpus, base_url, output = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
artifacts = (Corpus(corpus, "raw_corpus", "v"), Passages(corpus, "passages", "v"))
generate(artifacts, sdg_settings(base_url), output, look)
sys.stdout.write(f"{largest}\n")
