"""The settings of the corpus embeddings and the index."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from assets_pkg.settings import PositiveInt, RuntimeOnly, Settings


class ReindexSettings(Settings):
    """The corpus embedded by the promoted model, and the index that search reads."""

    encoder: Literal["local", "nim"]
    store: Literal["lancedb", "milvus"]
    milvus_uri: str
    milvus_token_env: Annotated[str, RuntimeOnly]
    index_type: Literal["auto", "exact", "ivf", "hnsw"]
    index_parameters: dict[str, PositiveInt]
    exact_below: Annotated[int, Field(ge=0)]
    dimensions: PositiveInt | None
    min_index_recall: Annotated[float, Field(ge=0, le=1), RuntimeOnly]
    eval_tolerance: Annotated[float, Field(ge=0), RuntimeOnly]
