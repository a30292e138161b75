"""What stands on the image side: the image itself, words about it, both; and what no measurement may fall below or
rise above."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from assets_pkg.image_text.pairs import Pair
from resources.encoders.items import Input, Item, ItemEncoder

if TYPE_CHECKING:
    from resources.encoders.base import Vectors

Condition = Literal["native", "caption", "fused", "oracle", "constant", "random"]
MEASURED: tuple[Condition, ...] = ("native", "caption", "fused")
CONSTANT = "an image"
ORACLE = "An image of {text}."
RANDOM_SEED = 7


@dataclass(frozen=True)
class ImageSide:
    """One condition for one model: makes the image side's vectors, float32 [n, d]."""

    condition: Condition
    embed: Callable[[], Vectors]


def image_sides(
    encoder: ItemEncoder, pairs: Sequence[Pair], captions: Mapping[str, str | None], *, fuse: bool
) -> list[ImageSide]:
    """The conditions that a model can be measured in, in the order of `Condition`.

    ``native`` needs a model of images, ``caption`` captions, ``fused`` a model of both together. An image without a
    caption is told as the constant one: that is all that a search through captions would know of it. Always there:
    ``oracle`` (a caption that says the right text: the ceiling of the caption path), ``constant`` (the same words
    for every image) and ``random`` (directions drawn at random): the floors.
    """
    told = [captions.get(pair.pair_id) or CONSTANT for pair in pairs]

    def passages(make: Callable[[], Sequence[Input]]) -> Callable[[], Vectors]:
        return lambda: encoder.embed(make(), "passage")

    sides: list[ImageSide] = []
    if "image" in encoder.modalities:
        sides.append(ImageSide("native", passages(lambda: [Item(images=(pair.open(),)) for pair in pairs])))
    if captions:
        sides.append(ImageSide("caption", passages(lambda: told)))
        if fuse and "text_image" in encoder.modalities:
            both = list(zip(pairs, told, strict=True))
            sides.append(
                ImageSide(
                    "fused", passages(lambda: [Item(text=text, images=(pair.open(),)) for pair, text in both])
                )
            )
    sides.append(ImageSide("oracle", passages(lambda: [ORACLE.format(text=pair.text) for pair in pairs])))
    sides.append(ImageSide("constant", passages(lambda: [CONSTANT] * len(pairs))))
    sides.append(ImageSide("random", lambda: _random(len(pairs), encoder.dimensions)))
    return sides


def _random(count: int, dimensions: int) -> Vectors:
    import numpy as np

    vectors = np.random.default_rng(RANDOM_SEED).standard_normal((count, dimensions), dtype=np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
