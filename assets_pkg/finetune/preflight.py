"""Estimates of the device memory and disk space that training needs, checked before it starts."""

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
"""Two are kept, and a third is written before the oldest is deleted."""

BYTES_PER_WEIGHT = 4
BYTES_PER_MOMENTS = 8
"""AdamW's two moments of a trained weight, in float32."""

# The mini-batch size, in tokens, with the lowest cost per token: small ones have a working set that fits the cache,
# large ones fewer calls, and fewer gradients of the whole vocabulary to add up. Measured with six layers on CPUs.
EFFICIENT_TOKENS = {"cpu": 1024}
EFFICIENT_TOKENS_ON_GPU = 16384

WHOLE_BATCH_PARTS = 3
"""One of so many parts of a device's memory is used without being asked for."""

BYTES_PER_TOKEN = 3
"""Of UTF-8 text: English has four, code three; German with a small vocabulary 2.4, within the margin for padding."""

SPECIAL_TOKENS = 2
PADDING, PADDING_OF_ALL = 1.5, 1.25
"""Upper bounds of padded to real tokens, of a mini-batch and of all of a batch; texts of similar length go together."""

SPREAD = 3
"""Standard deviations that the fullest batch is assumed to lie above the mean."""

SMALL_RANK = 16


# ---- disk --------------------------------------------------------------------------------------------------------


def bytes_needed(weights: int, trained: int) -> int:
    """The most bytes that training keeps on disk: checkpoints with the optimizer's state, the result, and a copy of the
    base."""
    checkpoint = BYTES_PER_WEIGHT * weights + BYTES_PER_MOMENTS * trained
    return CHECKPOINTS * checkpoint + 2 * BYTES_PER_WEIGHT * weights


def check_disk_space(folder: Path, model: SentenceTransformer) -> None:
    """Check that the disk of ``folder`` has space for training ``model``; files that an interrupted run left there
    count as free space.

    Raises:
        DiskSpaceError: it has not.
    """
    weights = sum(each.numel() for each in model.parameters())
    trained = sum(each.numel() for each in model.parameters() if each.requires_grad)
    needed = bytes_needed(weights, trained)
    reusable = sum(
        path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink()
    )
    free = shutil.disk_usage(folder).free + reusable
    if free < needed:
        raise DiskSpaceError(
            f"training {trained / 1e6:,.1f} million of {weights / 1e6:,.1f} million weights writes up to "
            f"{needed / 1e9:,.2f} GB, but {folder} has {free / 1e9:,.2f} GB free: free some space, set "
            "artifact_root to another disk, or set finetune.lora_rank"
        )


# ---- memory ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MiniBatches:
    """How a batch is embedded: at most ``tokens`` tokens at a time; ``cached``: with a gradient cache."""

    tokens: int
    cached: bool


@dataclass(frozen=True)
class TokenLengths:
    """Token counts of texts, estimated from their bytes so that they are rarely too low."""

    mean: float
    variance: float
    longest: int

    @classmethod
    def estimate(cls, texts: Sequence[str], limit: int) -> TokenLengths:
        """Of texts that are truncated at ``limit`` tokens."""
        counts = [min(limit, len(text.encode()) // BYTES_PER_TOKEN + SPECIAL_TOKENS) for text in texts]
        return cls(fmean(counts), pvariance(counts), max(counts))


@dataclass(frozen=True)
class Workload:
    """What determines the memory of a training run: the model, the number of questions in one process's batch, and the
    lengths of questions and passages."""

    shape: ModelShape
    questions: int
    question_lengths: TokenLengths
    passage_lengths: TokenLengths
    model: ModelSettings
    processes: int = 1

    @classmethod
    def upper_bound(
        cls, shape: ModelShape, model: ModelSettings, settings: FinetuneSettings, questions: int
    ) -> Workload:
        """With every text at the model's maximum length."""
        query_lengths = TokenLengths(model.query_max_length, 0, model.query_max_length)
        passage_lengths = TokenLengths(model.passage_max_length, 0, model.passage_max_length)
        share = math.ceil(questions / settings.num_processes)
        return cls(shape, share, query_lengths, passage_lengths, model, settings.num_processes)

    def need(self, settings: FinetuneSettings, accelerator: Accelerator) -> MemoryNeed:
        """The estimate for all processes that share the device."""
        how = Numerics(
            accelerator.device,
            bf16=use_bf16(settings, accelerator),
            fused=attention(self.model, settings, accelerator) != "eager",
            dropout=settings.dropout > 0,
        )
        batch = self._batch(settings, accelerator.device)
        need = training_need(
            self.shape,
            batch,
            how,
            lora_rank=settings.lora_rank,
            checkpointing=settings.gradient_checkpointing,
        )
        return need if accelerator.device.startswith("cuda") else need.times(self.processes)

    def _batch(self, settings: FinetuneSettings, device: str) -> Batch:
        longest = max(self.question_lengths.longest, self.passage_lengths.longest)
        parts = mini_batches(settings, self.model, self.questions, device)
        if parts.cached:
            return Batch(int(PADDING * max(parts.tokens, longest)), longest)
        each = settings.train_n_passages
        mean = self.questions * (self.question_lengths.mean + each * self.passage_lengths.mean)
        deviation = math.sqrt(
            self.questions * (self.question_lengths.variance + each * self.passage_lengths.variance)
        )
        most = self.questions * (self.question_lengths.longest + each * self.passage_lengths.longest)
        return Batch(min(most, int(PADDING_OF_ALL * (mean + SPREAD * deviation))), longest)


def mini_batches(
    settings: FinetuneSettings, model: ModelSettings, questions: int, device: str, *, whole: bool = False
) -> MiniBatches:
    """Mini-batches of as many tokens as ``local_batch_size`` questions have with all their passages at maximum length,
    or fewer where that is faster.

    Args:
        questions: the size of one process's batch.
        whole: all of them are kept for the backward pass (:func:`fits_whole`).
    """
    in_memory = settings.local_batch_size * settings.train_n_passages * model.passage_max_length
    efficient = EFFICIENT_TOKENS.get(device, EFFICIENT_TOKENS_ON_GPU)
    return MiniBatches(min(in_memory, efficient), not whole and settings.local_batch_size < questions)


def fits_whole(load: Workload, settings: FinetuneSettings, accelerator: Accelerator) -> bool:
    """Whether a whole batch is kept for the backward pass though ``local_batch_size`` is smaller: a gradient cache
    costs a second forward pass. It may take a third of the device's memory, and what is free."""
    if settings.local_batch_size >= load.questions:
        return False
    whole = settings.model_copy(update={"local_batch_size": load.questions})
    most = min(accelerator.memory_bytes, accelerator.total_bytes // WHOLE_BATCH_PARTS)
    return load.need(whole, accelerator).total <= most


def workload_of(
    base: Path,
    model: ModelSettings,
    settings: FinetuneSettings,
    data: TrainData,
    batch_size: int,
    processes: int,
) -> Workload | None:
    """That of training ``base`` on ``data``; None for an unusual model: loading it says what is wrong, if anything."""
    try:
        shape = read_shape(base)
    except ValueError:
        return None
    question_lengths = TokenLengths.estimate(
        [each.question for each in data.examples], model.query_max_length
    )
    passage_lengths = TokenLengths.estimate(list(data.passages.values()), model.passage_max_length)
    share = math.ceil(batch_size / processes)
    return Workload(shape, share, question_lengths, passage_lengths, model, processes)


def admit_training(workload: Workload, settings: FinetuneSettings, accelerator: Accelerator) -> None:
    """Check that training fits the accelerator's memory.

    Raises:
        NotEnoughMemoryError: it does not; with the estimate, and settings with which it would.
    """
    alternatives = (
        (text, workload.need(changed, accelerator)) for text, changed in savings(settings, workload.questions)
    )
    accelerator.admit(workload.need(settings, accelerator), alternatives)


def savings(settings: FinetuneSettings, questions: int) -> Iterator[tuple[str, FinetuneSettings]]:
    """Settings that need less memory, as overrides and as a whole; cumulative, those that cost least first."""
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
