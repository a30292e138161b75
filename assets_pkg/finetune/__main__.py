"""One of several training processes: ``torchrun --nproc-per-node=N -m assets_pkg.finetune FOLDER``."""

import sys
from pathlib import Path

from assets_pkg.finetune.launch import run_worker

if __name__ == "__main__":
    run_worker(Path(sys.argv[1]))
