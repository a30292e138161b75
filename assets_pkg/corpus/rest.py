"""Have the documents come to rest? A folder that is being copied into is read when that is done."""

from __future__ import annotations

import math
import time
from pathlib import Path

from assets_pkg.corpus.settings import CorpusSettings


def seconds_since_change(settings: CorpusSettings) -> float:
    """Seconds since a file or folder of the corpus last changed; infinite for a source that is no folder.

    Folders count too: a deletion changes nothing else.
    """
    root = Path(settings.corpus_dir).expanduser()
    if not root.is_dir():
        return math.inf
    newest = max(path.stat().st_mtime for path in [root, *root.rglob("*")] if path.exists())
    return max(0.0, time.time() - newest)
