"""The settings of stage 4: the exported graph and the TensorRT engine."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from assets_pkg.config.base import LaterSetting, PositiveInt, ProfileOnly, RuntimeOnly, Settings


class TensorrtSettings(Settings):
    """The engine's shapes (minimal, optimal and maximal batch and sequence length) and precisions.

    ``trt_layer_precisions`` are ``layer:precision``, such as ``*LayerNorm*:fp32``.
    """

    export_to_trt: bool
    trt_precision: Literal["fp32", "fp16", "bf16"]
    trt_min_batch: PositiveInt
    trt_opt_batch: PositiveInt
    trt_max_batch: PositiveInt
    trt_min_seq: PositiveInt
    trt_opt_seq: PositiveInt
    trt_max_seq: PositiveInt
    trt_layer_precisions: list[Annotated[str, Field(pattern=r"^[^:,]+:(fp32|fp16|bf16|int8)$")]]

    @model_validator(mode="after")
    def _shapes_ascend(self) -> TensorrtSettings:
        for name in ("batch", "seq"):
            least, usual, most = (getattr(self, f"trt_{bound}_{name}") for bound in ("min", "opt", "max"))
            if not least <= usual <= most:
                raise ValueError(f"trt_opt_{name} = {usual}: must lie between {least} and {most}")
        return self


class GraphSettings(Settings):
    """The exported graph. ``export_layout``: ``recipe`` is the layout of NVIDIA's exporter, which Retune's server takes
    too: a graph with a third input ``dimensions``, and the tokenizer in ``tokenizer/`` as well."""

    opset: Annotated[int, Field(ge=17)]
    export_layout: Annotated[Literal["retune", "recipe"], LaterSetting("retune")]
    export_dtype: Literal["fp32", "fp16", "int8_weights", "int8_dynamic"]
    attn_implementation: Literal["eager", "sdpa"]
    max_cosine_distance: Annotated[float, Field(gt=0, le=1), RuntimeOnly]
    min_top10_overlap: Annotated[float, Field(ge=0, le=1), RuntimeOnly]
    max_ndcg_loss: Annotated[float, Field(ge=0, le=1), RuntimeOnly]


class DimensionSettings(Settings):
    """The numbers of dimensions that a server of the export offers, besides all of them."""

    matryoshka_dims: list[PositiveInt]


class ExportSettings(GraphSettings, TensorrtSettings):
    """Stage 4. ``model_path``: a model folder of the user's own, which is promoted in place of the gate's choice."""

    model_path: Annotated[str | None, RuntimeOnly, ProfileOnly]
