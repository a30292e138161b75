"""Will training fit in device memory and on disk? Known before the weights are loaded."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, pvariance
from typing import TYPE_CHECKING

from assets_pkg.config.base import ModelSettings
from assets_pkg.config.sections.finetune import FinetuneSettings
from assets_pkg.finetune.data import TrainData
from assets_pkg.finetune.errors import DiskSpaceError
from assets_pkg.finetune.model_io import attention, use_bf16
from resources.machine.accelerator import Accelerator
from resources.machine.memory_estimate import Batch, MemoryNeed, Numerics, training_need
from resources.models.shape import ModelShape, read_shape

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


def check_disk_space(folder: Path, model: SentenceTransformer) -> None:
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
        raise DiskSpaceError(
            f"training {trained / 1e6:,.1f} million of {weights / 1e6:,.1f} million weights writes up to "
            f"{needed / 1e9:,.2f} GB, but {folder} has {free / 1e9:,.2f} GB free: free some space, set "
            "artifact_root to another disk, or set finetune.lora_rank"
        )


# What a mini-batch costs per token is least here: less padding and a working set that stays in the cache,
# against the overhead of one more call. Measured with a six-layer model on a CPU.
EFFICIENT_TOKENS = {"cpu": 768}
EFFICIENT_TOKENS_ON_GPU = 16384
BYTES_PER_TOKEN = 3
"""Of UTF-8 text: English has four, code three; German with a small vocabulary 2.4, within the margin for padding."""

SPECIAL_TOKENS = 2
PADDING, PADDING_OF_ALL = 1.5, 1.25
"""What a mini-batch, and what all of a batch hold at most for each real token; texts of like length go together."""

SPREAD = 3
"""Standard deviations that the fullest batch lies above the mean one."""

SMALL_RANK = 16


@dataclass(frozen=True)
class MiniBatches:
    """How a batch is embedded: in parts of ``tokens`` at most; ``cached``: one at a time in memory."""

    tokens: int
    cached: bool


@dataclass(frozen=True)
class Lengths:
    """Tokens of texts, told from their bytes, rather too many."""

    mean: float
    variance: float
    longest: int

    @classmethod
    def of(cls, texts: Sequence[str], limit: int) -> Lengths:
        """Of texts that are cut at ``limit`` tokens."""
        counts = [min(limit, len(text.encode()) // BYTES_PER_TOKEN + SPECIAL_TOKENS) for text in texts]
        return cls(fmean(counts), pvariance(counts), max(counts))


@dataclass(frozen=True)
class Load:
    """A training run as memory sees it: the model, the questions of one process's batch, and their lengths."""

    shape: ModelShape
    questions: int
    asked: Lengths
    passages: Lengths
    model: ModelSettings
    processes: int = 1

    @classmethod
    def worst(
        cls, shape: ModelShape, model: ModelSettings, settings: FinetuneSettings, questions: int
    ) -> Load:
        """Every text as long as the model takes it."""
        asked = Lengths(model.query_max_length, 0, model.query_max_length)
        passages = Lengths(model.passage_max_length, 0, model.passage_max_length)
        share = math.ceil(questions / settings.num_processes)
        return cls(shape, share, asked, passages, model, settings.num_processes)

    def need(self, settings: FinetuneSettings, accelerator: Accelerator) -> MemoryNeed:
        """Of all processes that share the device."""
        how = Numerics(
            accelerator.device,
            bf16=use_bf16(settings, accelerator),
            fused=attention(self.model, settings, accelerator) != "eager",
            dropout=settings.dropout > 0,
        )
        rank, again = settings.lora_rank, settings.gradient_checkpointing
        batch = self._batch(settings, accelerator.device)
        need = training_need(self.shape, batch, how, lora_rank=rank, checkpointing=again)
        return need if accelerator.device.startswith("cuda") else need.times(self.processes)

    def _batch(self, settings: FinetuneSettings, device: str) -> Batch:
        longest = max(self.asked.longest, self.passages.longest)
        parts = mini_batches(settings, self.model, self.questions, device)
        if parts.cached:
            return Batch(int(PADDING * max(parts.tokens, longest)), longest)
        each = settings.train_n_passages
        mean = self.questions * (self.asked.mean + each * self.passages.mean)
        deviation = math.sqrt(self.questions * (self.asked.variance + each * self.passages.variance))
        most = self.questions * (self.asked.longest + each * self.passages.longest)
        return Batch(min(most, int(PADDING_OF_ALL * (mean + SPREAD * deviation))), longest)


def mini_batches(
    settings: FinetuneSettings, model: ModelSettings, questions: int, device: str
) -> MiniBatches:
    """Mini-batches hold as many tokens as ``local_batch_size`` questions with all their passages at full length
    would, or fewer where that is faster; ``questions`` are those of one process's batch."""
    in_memory = settings.local_batch_size * settings.train_n_passages * model.passage_max_length
    efficient = EFFICIENT_TOKENS.get(device, EFFICIENT_TOKENS_ON_GPU)
    return MiniBatches(min(in_memory, efficient), settings.local_batch_size < questions)


def check_memory(
    base: Path,
    model: ModelSettings,
    settings: FinetuneSettings,
    accelerator: Accelerator,
    data: TrainData,
    batch_size: int,
    processes: int,
) -> None:
    """See that training ``base`` on ``data`` fits the accelerator.

    Raises:
        NotEnoughMemoryError: it does not; with the figures, and the settings with which it would.
    """
    try:
        shape = read_shape(base)
    except ValueError:
        return  # an unusual model: its own code loads it, or says what is wrong
    asked = Lengths.of([each.question for each in data.examples], model.query_max_length)
    passages = Lengths.of(list(data.passages.values()), model.passage_max_length)
    load = Load(shape, math.ceil(batch_size / processes), asked, passages, model, processes)
    admit_training(load, settings, accelerator)


def admit_training(load: Load, settings: FinetuneSettings, accelerator: Accelerator) -> None:
    """As :func:`check_memory`, of a known load."""
    changes = ((text, load.need(changed, accelerator)) for text, changed in savings(settings, load.questions))
    accelerator.admit(load.need(settings, accelerator), changes)


def savings(settings: FinetuneSettings, questions: int) -> Iterator[tuple[str, FinetuneSettings]]:
    """Settings that take less memory and how to ask for them, those that cost least first."""
    found: dict[str, object] = {}

    def changed(**values: object) -> tuple[str, FinetuneSettings]:
        found.update(values)
        text = " ".join(f"finetune.{name}={str(value).lower()}" for name, value in found.items())
        return text, settings.model_copy(update=found)

    size = min(settings.local_batch_size, questions)
    while size > 1:
        size //= 2
        yield changed(local_batch_size=size)
    if not settings.gradient_checkpointing:
        yield changed(gradient_checkpointing=True)
    if settings.lora_rank is None:
        yield changed(lora_rank=SMALL_RANK)
