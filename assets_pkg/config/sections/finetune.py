"""The settings of stage 2: fine-tuning."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from assets_pkg.config.base import BatchSize, Fraction, LaterSetting, PositiveInt, RuntimeOnly, Settings

Swept = Literal["learning_rate", "temperature", "num_epochs", "global_batch_size", "teacher_weight"]
AdapterSide = Literal["both", "query"]
MergeSelect = Literal["best", "one_standard_error"]


class MixSettings(Settings):
    """General pairs to train on beside those of the documents: ``path`` is a BEIR folder (the questions of
    ``qrels/train.tsv``, else ``test.tsv``), ``share`` their part of all training rows."""

    path: str
    share: Annotated[float, Field(gt=0, lt=1)]


class FinetuneSettings(Settings):
    """Stage 2. ``method``: ``full`` trains the model (or adapters inside it, with ``lora_rank``), ``adapter`` one
    matrix on its vectors, in seconds; with ``adapter_side`` ``query`` on those of questions only, so that the vectors
    of passages stay the base's.

    ``merge_select``: which share of the tuned weights ``merge_with_base`` takes: the best on the validation questions,
    or the smallest within one standard error of it.

    ``mix``: general pairs among those of the documents, against forgetting.

    ``sweep``: values of some settings; every combination is trained, and the best on the validation questions taken.

    ``teacher``: whose scores the model learns beside the pairs, for ``teacher_questions`` questions without labels and
    ``teacher_candidates`` passages each: ``lexical`` (the base and BM25 fused, ``lexical:0.7`` with that share of the
    base), an encoder of the registry, or a cross-encoder's folder or hub id. ``teacher_weight``: of its loss, where
    that of the pairs has 1.
    """

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
    adapter_side: Annotated[AdapterSide, LaterSetting("both")]
    sweep: Annotated[dict[Swept, Annotated[list[float], Field(min_length=1)]], LaterSetting({})]
    merge_select: Annotated[MergeSelect, LaterSetting("best")]
    teacher: Annotated[str | None, LaterSetting()]
    teacher_weight: Annotated[float, Field(gt=0), LaterSetting(1.0)]
    teacher_questions: Annotated[int, Field(ge=1), LaterSetting(2000)]
    teacher_candidates: Annotated[int, Field(ge=2), LaterSetting(64)]
    mix: Annotated[MixSettings | None, LaterSetting()]

    @model_validator(mode="after")
    def _mix_is_contrasted(self) -> Self:
        if self.mix is not None and (self.method != "full" or not self.in_batch_negatives):
            raise ValueError(
                "mix: general pairs have no mined negatives: needs method=full, in_batch_negatives=true"
            )
        return self
