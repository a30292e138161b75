"""The settings of the image-text benchmark."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from assets_pkg.config.base import LaterSetting, PositiveInt, ProfileOnly, Settings
from storage.digests import digest_json


class PairSettings(Settings):
    """Which pairs of image and text: ``colours://xkcd``, a folder of images with texts, or a table."""

    pairs: str
    num_pairs_limit: PositiveInt | None


class CaptionSettings(Settings):
    """How images are captioned: not at all, by the nearest named colour, or by a vision model."""

    captioner: Literal["none", "nearest_colour", "vlm"]
    caption_model: str
    caption_base_url: Annotated[str, ProfileOnly]
    caption_prompt: str
    caption_system: str | None
    caption_max_tokens: PositiveInt

    def digest(self) -> str:
        """As for every section, but without a vision model its settings decide nothing."""
        return super().digest() if self.captioner == "vlm" else digest_json({"captioner": self.captioner})


class ScoreSettings(Settings):
    """Which models of the registry embed images and texts, and which figures are computed. ``truncate_dimensions``: the
    length to which vectors are cut, of models that are trained for it; ``load_precision``: of the weights on a GPU,
    instead of the registry's ``dtype`` (``int8``: of the weights in linear layers, on a CPU too)."""

    image_text_models: Annotated[list[str], Field(min_length=1)]
    recall_at: Annotated[list[PositiveInt], Field(min_length=1)]
    fuse_captions: bool
    truncate_dimensions: Annotated[PositiveInt | None, LaterSetting()]
    load_precision: Annotated[Literal["fp32", "bf16", "fp16", "int8"] | None, LaterSetting()]


class ImageTextSettings(PairSettings, CaptionSettings, ScoreSettings):
    """The image-text benchmark."""
