"""The settings of the caption judges."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from assets_pkg.config.base import RuntimeOnly, Settings


class JudgeSettings(Settings):
    """Which captions are judged, and by which models of the registry. ``published_results``: a folder with the results
    of other captioners in CLIP-CC-Bench's layout, beside which these are ranked too."""

    references: str | None
    predictions_dir: str | None
    judge_models: Annotated[list[str], Field(min_length=1)]
    min_judges: Annotated[int, Field(ge=1), RuntimeOnly]
    allow_gaps: bool
    published_results: Annotated[str | None, RuntimeOnly]  # its content is a part of the ranking's key
