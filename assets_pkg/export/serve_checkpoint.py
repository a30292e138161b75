"""``python -m assets_pkg.export.serve_checkpoint``: the embedding server over a checkpoint that has no ONNX export.

The options are those of ``python -m assets_pkg.nim``; ``--model-dir`` is a sentence-transformers folder.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from assets_pkg.nim.__main__ import main

if TYPE_CHECKING:
    from assets_pkg.nim.loading import LoadedModel


def _load(folder: Path, max_length: int | None) -> LoadedModel:
    from assets_pkg.export.checkpoint_model import load_checkpoint_model  # loads torch

    return load_checkpoint_model(folder, max_length)


if __name__ == "__main__":
    sys.exit(main(load=_load))
