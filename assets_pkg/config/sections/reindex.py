"""The settings of the corpus embeddings and the index."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from assets_pkg.config.base import PositiveInt, ProfileOnly, RuntimeOnly, Settings


class ReindexSettings(Settings):
    """The corpus embedded by the promoted model, and the index that search reads."""

    encoder: Literal["local", "nim"]
    store: Literal["lancedb", "milvus"]
    milvus_uri: Annotated[str, ProfileOnly]
    milvus_collection: str
    milvus_token_env: Annotated[str, Field(pattern=r"^([A-Za-z_][A-Za-z0-9_]*)?$"), RuntimeOnly, ProfileOnly]
    index_type: Literal["auto", "exact", "ivf", "hnsw"]
    index_parameters: dict[str, PositiveInt]
    exact_below: Annotated[int, Field(ge=0)]
    dimensions: PositiveInt | None
    min_index_recall: Annotated[float, Field(ge=0, le=1), RuntimeOnly]
    eval_tolerance: Annotated[float, Field(ge=0), RuntimeOnly]

    @field_validator("milvus_collection")
    @classmethod
    def _milvus_takes_the_name(cls, name: str) -> str:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,199}", name):
            raise ValueError(
                f"{name!r} is no name for Milvus: a letter or an underscore, then letters, digits and underscores, "
                "at most 200 in all"
            )
        return name

    def decisive(self) -> dict[str, Any]:
        """As for every section, but the settings of Milvus decide nothing where it is not used."""
        used = super().decisive()
        return {name: used[name] for name in used if self.store == "milvus" or not name.startswith("milvus_")}
