"""Will training fit on the disk? Known before the first step."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from assets_pkg.finetune.errors import NoRoomError

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

CHECKPOINTS = 3
"""Two are kept, and a third is written before the older one goes."""

BYTES_PER_WEIGHT = 4
BYTES_PER_MOMENTS = 8
"""What AdamW keeps of every weight that is trained."""


def bytes_needed(weights: int, trained: int) -> int:
    """Bytes that training writes at most: checkpoints with the optimizer's state, the result, and a copy of the base
    (where it cannot be linked)."""
    checkpoint = BYTES_PER_WEIGHT * weights + BYTES_PER_MOMENTS * trained
    return CHECKPOINTS * checkpoint + 2 * BYTES_PER_WEIGHT * weights


def check_room(folder: Path, model: SentenceTransformer) -> None:
    """See that the disk of ``folder`` has room for training ``model``; what an interrupted run left there counts as
    room.

    Raises:
        NoRoomError: with the figures.
    """
    weights = sum(each.numel() for each in model.parameters())
    trained = sum(each.numel() for each in model.parameters() if each.requires_grad)
    needed = bytes_needed(weights, trained)
    left = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    free = shutil.disk_usage(folder).free + left
    if free < needed:
        raise NoRoomError(
            f"training {trained / 1e6:,.1f} million of {weights / 1e6:,.1f} million weights writes up to "
            f"{needed / 1e9:,.2f} GB, but {folder} has {free / 1e9:,.2f} GB free: free some space, set "
            "artifact_root to another disk, or set finetune.lora_rank"
        )
