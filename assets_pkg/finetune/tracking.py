"""Where the curves go beside ``training.jsonl``: TensorBoard where it is installed, W&B where it is asked for.

W&B takes its key from ``WANDB_API_KEY`` or from ``wandb login``, and writes for a later ``wandb sync`` with
``WANDB_MODE=offline``. No setting holds the key, and nothing that is written does.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from assets_pkg.finetune.errors import TrainingDataError
from assets_pkg.finetune.job import Job


@contextmanager
def trackers(job: Job) -> Iterator[list[Any]]:
    """Trainer callbacks that write the curves as training goes; what they hold open ends with the block.

    Raises:
        TrainingDataError: W&B is asked for and does not let us in.
    """
    from transformers.integrations.integration_utils import TensorBoardCallback, WandbCallback

    found: list[Any] = []
    if importlib.util.find_spec("tensorboard") is not None:
        from torch.utils.tensorboard import SummaryWriter

        found.append(TensorBoardCallback(SummaryWriter(str(job.tensorboard))))
    if job.settings.wandb_project is None:
        yield found
        return
    with _wandb_run(job):
        yield [*found, WandbCallback()]


@contextmanager
def _wandb_run(job: Job) -> Iterator[None]:
    """A run named after what is trained, so that a training that goes on after a kill is one run."""
    import wandb

    job.wandb.mkdir(parents=True, exist_ok=True)
    try:
        run = wandb.init(
            project=job.settings.wandb_project,
            dir=str(job.wandb),
            id=job.identity,
            resume="allow",
            config={
                "finetune": job.settings.decisive(),
                "model": job.model.decisive(),
                "plan": job.plan.as_dict(),
                "base_digest": job.base.version,
                "training_set_digest": job.mined.version,
            },
            settings=wandb.Settings(console="off", disable_git=True, disable_code=True, silent=True),
        )
    except wandb.Error as error:
        raise TrainingDataError(
            f"finetune.wandb_project = {job.settings.wandb_project!r}: {error}. Set WANDB_API_KEY, or "
            "WANDB_MODE=offline, or set finetune.wandb_project to null"
        ) from error
    job.note(f"W&B run: {run.url or run.dir}")
    try:
        yield
    finally:
        run.finish(exit_code=1 if sys.exc_info()[0] else 0)
