"""The settings of stage 1: training and evaluation sets, hard negatives."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from assets_pkg.config.base import (
    BatchSize,
    Fraction,
    LaterSetting,
    PositiveInt,
    ProfileOnly,
    RuntimeOnly,
    Settings,
)


class SplitSettings(Settings):
    """Filter and split of QA pairs, by document or bundle.

    ``split_strategy``: ``random`` cuts the shuffled documents; the others keep groups of documents together:
    those of ``groups_json`` (``dedupped``: overlapping groups become one; ``cluster``: none may overlap), or
    those found to be nearly the same text (``near_duplicate``).
    """

    quality_threshold: Annotated[float, Field(ge=0, le=10)]
    train_ratio: Fraction
    val_ratio: Fraction
    test_ratio: Fraction
    conversion_seed: int
    max_pos_docs: PositiveInt
    split_strategy: Literal["random", "dedupped", "cluster", "near_duplicate"]
    groups_json: str | list[str] | None
    near_duplicate_threshold: Annotated[float, Field(gt=0, le=1)]

    @property
    def groups_files(self) -> list[Path]:
        """The files of ``groups_json`` that the strategy reads."""
        if self.split_strategy not in ("dedupped", "cluster") or self.groups_json is None:
            return []
        names = [self.groups_json] if isinstance(self.groups_json, str) else self.groups_json
        return [Path(name) for name in names]


class TrainingSourceSettings(Settings):
    """Where training questions come from, if not from the pairs: a ``train.json`` or a mined file."""

    train_input_file: Annotated[str | None, ProfileOnly]


class EvalSetSettings(Settings):
    """The eval set: split from the pairs, or the BEIR folder ``eval_data_path``; once frozen it stays as it is."""

    eval_data_path: Annotated[str | None, ProfileOnly]
    use_group_id_in_eval: bool
    freeze_eval_set: bool


class CheckSettings(Settings):
    """Limits of the checks of the sets: the share of eval set questions whose text or answer nearly occurs in
    training."""

    max_near_duplicate_share: Annotated[Fraction, RuntimeOnly]


class MiningSettings(Settings):
    """Hard negatives: the highest-scoring passages that the margin does not suspect of being positives.

    ``too_few_negatives``: a question that the margin leaves fewer than ``hard_negatives_to_mine`` keeps what it
    has (``keep``), is filled up with the lowest-scoring of the suspected passages (``fill``), or is left out
    (``drop``). ``mining_processes``: how many search at most; null: one on each GPU, one on a CPU (it uses all
    cores).

    ``hard_neg_filter``: what suspects a passage of being a positive: the ``margin`` on the base's scores, or a
    ``teacher`` (``hard_neg_teacher``, as ``finetune.teacher`` is given), by the same margin on its own scores.
    ``mine_from``, ``mine_to``: the ranks, counted from 0, among the passages that are not suspected, from which
    negatives are taken.
    """

    hard_negatives_to_mine: PositiveInt
    hard_neg_margin_type: Literal["perc", "abs"]
    hard_neg_margin: Fraction
    mining_batch_size: BatchSize
    mining_processes: Annotated[PositiveInt | None, RuntimeOnly]
    too_few_negatives: Literal["keep", "fill", "drop"]
    hard_neg_filter: Annotated[Literal["margin", "teacher"], LaterSetting("margin")]
    hard_neg_teacher: Annotated[str, LaterSetting("lexical")]
    mine_from: Annotated[int, Field(ge=0), LaterSetting(0)]
    mine_to: Annotated[PositiveInt | None, LaterSetting()]


class PrepSettings(SplitSettings, TrainingSourceSettings, EvalSetSettings, CheckSettings, MiningSettings):
    """Stage 1."""

    @model_validator(mode="after")
    def _groups_are_given(self) -> PrepSettings:
        if self.split_strategy in ("dedupped", "cluster") and not self.groups_json:
            raise ValueError(
                f"split_strategy = {self.split_strategy!r}: needs groups_json; near_duplicate finds groups itself"
            )
        return self

    @model_validator(mode="after")
    def _enough_ranks(self) -> PrepSettings:
        if self.mine_to is not None and self.mine_to < self.mine_from + self.hard_negatives_to_mine:
            raise ValueError(
                f"mine_to = {self.mine_to}: must be at least mine_from + hard_negatives_to_mine = "
                f"{self.mine_from + self.hard_negatives_to_mine}"
            )
        return self

    @model_validator(mode="after")
    def _ratios_sum_to_one(self) -> PrepSettings:
        total = self.train_ratio + self.val_ratio + self.test_ratio
        if abs(total - 1) > 1e-6:
            raise ValueError(f"train_ratio + val_ratio + test_ratio = {total:g}: must be 1")
        return self
