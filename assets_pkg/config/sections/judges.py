"""The settings of the caption judges."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from assets_pkg.config.base import RuntimeOnly, Settings


class JudgeSettings(Settings):
    """Which captions are judged, and by which models of the registry."""

    references: str | None
    predictions_dir: str | None
    judge_models: Annotated[list[str], Field(min_length=1)]
    min_judges: Annotated[int, Field(ge=1), RuntimeOnly]
    allow_gaps: bool
