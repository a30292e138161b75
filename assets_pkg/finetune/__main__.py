"""One of several training processes: ``torchrun --nproc-per-node=N -m assets_pkg.finetune FOLDER``."""

import sys
from pathlib import Path

from assets_pkg.finetune.launch import run_worker
from resources.machine.imports import spare_imports

if __name__ == "__main__":
    spare_imports()
    run_worker(Path(sys.argv[1]))
