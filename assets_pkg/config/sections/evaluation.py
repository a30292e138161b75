"""The settings of stage 3: measurement and the gate."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from assets_pkg.config.base import BatchSize, LaterSetting, PositiveInt, ProfileOnly, RuntimeOnly, Settings


class IntervalSettings(Settings):
    """Confidence intervals of every measurement, by bootstrap."""

    confidence: Annotated[float, Field(gt=0.5, lt=1)]
    bootstrap_samples: Annotated[int, Field(ge=100)]
    bootstrap_seed: int


class EvalSettings(IntervalSettings):
    """Stage 3: what is measured. ``eval_dimensions``: shorter vectors that are measured beside the full ones.
    ``finetuned_model_path``: a model folder of the user's own, in place of the one that training makes."""

    k_values: Annotated[list[PositiveInt], Field(min_length=1)]
    eval_dimensions: list[PositiveInt]
    eval_base: Annotated[bool, ProfileOnly]
    eval_finetuned: Annotated[bool, ProfileOnly]
    eval_nim: Annotated[bool, RuntimeOnly, ProfileOnly]
    fail_on_nim_metric_drift: Annotated[bool, RuntimeOnly]
    eval_batch_size: BatchSize
    finetuned_model_path: Annotated[str | None, RuntimeOnly, ProfileOnly]

    def decisive(self) -> dict[str, Any]:
        """As for every section, but a comparison is always of both models: which of them are asked for decides what
        is measured (:attr:`single_model`), not the result."""
        return {**super().decisive(), "eval_base": True, "eval_finetuned": True}

    @property
    def single_model(self) -> Literal["base", "finetuned"] | None:
        """The one model that is measured, if not both are; None also where neither is."""
        if self.eval_base == self.eval_finetuned:
            return None
        return "base" if self.eval_base else "finetuned"


class SingleModelSettings(Settings):
    """Which model is measured without the other."""

    single_model: str


class GateSettings(Settings):
    """When a checkpoint is promoted: ``metric`` must gain at least ``min_delta``, with an interval above zero, and
    no other metric may lose more than ``max_regression``, with an interval below zero. On each of ``guard_sets`` (BEIR
    folders) ``metric`` may not lose more than ``max_general_loss``, with an interval below zero."""

    metric: str
    min_delta: Annotated[float, Field(ge=0, le=1)]
    max_regression: Annotated[float, Field(ge=0, le=1)]
    guard_sets: Annotated[list[str], LaterSetting([])]
    max_general_loss: Annotated[float, Field(ge=0, le=1), LaterSetting(0.01)]
