"""The settings of search."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from assets_pkg.config.base import Settings


class SearchSettings(Settings):
    """``method``: how queries are answered. ``auto`` measures the methods on the eval set and takes the best;
    ``dense``, ``bm25``, ``rrf`` or ``convex:0.5`` (the vectors' share) are taken as they are."""

    method: Annotated[str, Field(pattern=r"^(auto|dense|bm25|rrf|convex:0?\.\d+)$")]
