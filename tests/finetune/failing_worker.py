"""What torchrun runs in a test: a training process whose training fails at once, without model or trainer."""

import sys
from pathlib import Path
from types import ModuleType

from assets_pkg.finetune.launch import run_worker


def fail(*_: object) -> None:
    raise ValueError("no such training set")


if __name__ == "__main__":
    train = ModuleType("assets_pkg.finetune.train")
    train.finetune = fail  # type: ignore[attr-defined]
    sys.modules[train.__name__] = train
    run_worker(Path(sys.argv[1]))
