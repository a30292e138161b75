"""The settings of stage 2: fine-tuning."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from assets_pkg.config.base import BatchSize, Fraction, PositiveInt, RuntimeOnly, Settings


class FinetuneSettings(Settings):
    """Stage 2. ``method``: ``full`` trains the model (or adapters inside it, with ``lora_rank``), ``adapter`` one
    matrix on its vectors, in seconds."""

    method: Literal["full", "adapter"]
    num_epochs: PositiveInt
    global_batch_size: PositiveInt
    local_batch_size: BatchSize
    learning_rate: Annotated[float, Field(gt=0, lt=1)]
    lr_scheduler: Literal["cosine", "linear", "constant"]
    warmup_ratio: Fraction
    weight_decay: Annotated[float, Field(ge=0)]
    max_grad_norm: Annotated[float, Field(gt=0)]
    temperature: Annotated[float, Field(gt=0, le=1)]
    train_n_passages: Annotated[int, Field(ge=1)]
    in_batch_negatives: bool
    dropout: Fraction
    precision: Literal["auto", "fp32", "bf16"]
    seed: int
    checkpoint_every_steps: Annotated[int, Field(ge=1), RuntimeOnly]
    headroom_ndcg: Fraction
    headroom_loss: Annotated[float, Field(ge=0)]
    matryoshka_dims: list[PositiveInt]
    lora_rank: PositiveInt | None
    gradient_checkpointing: Annotated[bool, RuntimeOnly]
    merge_with_base: bool
    early_stop_patience: PositiveInt | None
    num_processes: Annotated[int, Field(ge=1), RuntimeOnly]
    wandb_project: Annotated[str | None, RuntimeOnly]
