"""One of several training processes: ``torchrun --nproc-per-node=N -m assets_pkg.finetune FOLDER``."""

import sys
from pathlib import Path

from assets_pkg.finetune.launch import train_share

if __name__ == "__main__":
    train_share(Path(sys.argv[1]))
