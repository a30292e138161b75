"""What a multimodal encoder embeds: a text, images, or both together, and how images are read safely."""

from __future__ import annotations

import base64
import binascii
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Protocol, cast

from resources.encoders.base import Role
from resources.models.entry import Modality
from storage.digests import digest_bytes, digest_json, digest_text
from storage.errors import RetuneError
from storage.progress import Progress, no_progress

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

    from resources.encoders.base import Vectors

MAX_IMAGE_BYTES = 20_000_000
MAX_IMAGE_PIXELS = 50_000_000
IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
MAX_ASPECT = 200
"""Beyond this ratio of the sides Qwen's image processor refuses an image."""


class ItemError(RetuneError, ValueError):
    """Something that cannot be embedded; ``index`` is its position among the items, where known."""

    def __init__(self, message: str, index: int | None = None):
        super().__init__(message if index is None else f"item {index}: {message}")
        self.index = index


class TooManyPixelsError(ItemError):
    """An image has more pixels than allowed, by its header: none was decoded."""


@dataclass(frozen=True)
class Item:
    """A text, images, or both (then they get one vector together). ``instruction`` replaces the model's own
    task description, where it takes one."""

    text: str | None = None
    images: tuple[Image.Image, ...] = ()
    instruction: str | None = None

    @property
    def modality(self) -> Modality:
        if self.images:
            return "text_image" if self.text else "image"
        return "text"

    @cached_property
    def digest(self) -> str:
        """Digest of the content; of a bare text the text's own, so that all encoders share one cache."""
        if self.text is not None and not self.images and self.instruction is None:
            return digest_text(self.text)
        images = [[*image.size, image.mode, digest_bytes(image.tobytes())] for image in self.images]
        return digest_json([self.text, images, self.instruction])


Input = str | Item


class ItemEncoder(Protocol):
    """Turns texts and images into unit vectors of one model."""

    @property
    def dimensions(self) -> int:
        """Length d of the vectors; may load the model."""
        ...

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """What one item may hold."""
        ...

    def identity(self, role: Role) -> str:
        """Digest of all that determines a vector except the item: weights, prompts, lengths, precision."""
        ...

    def embed(self, items: Sequence[Input], /, role: Role, progress: Progress = no_progress) -> Vectors:
        """Vectors of ``items``: float32 [len(items), d], unit length, in the same order.

        Raises:
            ItemError: an item is empty, or of a modality that the model does not have.
        """
        ...

    def close(self) -> None:
        """Free the model's memory."""
        ...


@dataclass(frozen=True)
class Observation:
    """What a text model computed for one batch: ``tokens`` int64 [n, t], ``mask`` int64 [n, t] (1 for
    real tokens), ``hidden`` float32 [n, t, h] (the last layer), ``vectors`` float32 [n, d]."""

    tokens: NDArray[np.int64]
    mask: NDArray[np.int64]
    hidden: NDArray[np.float32]
    vectors: NDArray[np.float32]


class Observable(Protocol):
    """An encoder whose hidden states a conformance check can read."""

    def observe(self, texts: Sequence[str], role: Role) -> Observation:
        """Run ``texts`` as one padded batch, and return what the model computed."""
        ...


def as_items(
    inputs: Sequence[Input], modalities: Iterable[Modality], model: str, start: int = 0
) -> list[Item]:
    """The inputs as items, each of a modality that the model has.

    Raises:
        ItemError: naming the first item that is empty or that the model cannot read.
    """
    allowed = tuple(modalities)
    items = [Item(text=each) if isinstance(each, str) else each for each in inputs]
    for index, item in enumerate(items, start):
        if item.text is None and not item.images:
            raise ItemError("neither text nor image", index)
        if item.modality not in allowed:
            raise ItemError(f"{model} does not embed {item.modality}, only {', '.join(allowed)}", index)
    return items


def decode_image(
    data: str | bytes, *, max_bytes: int = MAX_IMAGE_BYTES, max_pixels: int = MAX_IMAGE_PIXELS
) -> Image.Image:
    """An RGB image from its bytes, from base64 or from a ``data:image/...;base64,`` URI. Transparent parts
    become white, EXIF rotation is applied, of an animation the first frame is taken. Grey values of 16 bits, and of
    32 bits up to 65,535, are scaled to 8 bits, decimal ones from 0 to 1 too.

    The size is read from the header before any pixel is decoded, so a decompression bomb costs nothing.

    Raises:
        ItemError: not base64, a URL, not an image of a known format, or over a limit.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    raw = data if isinstance(data, bytes) else _from_base64(data, max_bytes)
    if len(raw) > max_bytes:
        raise ItemError(f"the image has {len(raw):,} bytes, more than the {max_bytes:,} allowed")
    try:
        # Pillow's own bomb check warns or raises at its global limit; ours is asked first and is a parameter.
        image = Image.open(io.BytesIO(raw), formats=IMAGE_FORMATS)
        _check_size(image.size, max_pixels)
        image = ImageOps.exif_transpose(image)
        return _on_white(image)
    except Image.DecompressionBombError as error:
        raise TooManyPixelsError(f"the image has more than the {max_pixels:,} pixels allowed") from error
    except UnidentifiedImageError as error:
        raise ItemError(f"not an image of a format that is read here ({', '.join(IMAGE_FORMATS)})") from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        if isinstance(error, ItemError):
            raise
        raise ItemError(f"the image is broken: {error}") from error


def encode_png(image: Image.Image) -> bytes:
    """The PNG of an image."""
    stream = io.BytesIO()
    image.save(stream, format="PNG")
    return stream.getvalue()


def data_uri(image: Image.Image) -> str:
    """``data:image/png;base64,...``"""
    return f"data:image/png;base64,{base64.b64encode(encode_png(image)).decode('ascii')}"


def is_data_uri(text: str) -> bool:
    """Whether a string is a data URI of an image."""
    return text[:11].lower() == "data:image/"


def _from_base64(text: str, max_bytes: int) -> bytes:
    if text[:8].lower().startswith(("http://", "https://", "file://", "ftp://")):
        raise ItemError("an image must be sent as base64 or as a data URI: URLs are not fetched")
    if text[:5].lower() == "data:":
        head, comma, text = text.partition(",")
        if not comma or not head.lower().endswith(";base64") or not is_data_uri(head):
            raise ItemError("a data URI of an image begins with data:image/...;base64,")
    if len(text) * 3 // 4 > max_bytes + 4:
        raise ItemError(f"the image has more than the {max_bytes:,} bytes allowed")
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ItemError("the image is not base64") from error


def _check_size(size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if width * height > max_pixels:
        size_text = f"{width:,} x {height:,} pixels"
        raise TooManyPixelsError(f"the image has {size_text}, more than the {max_pixels:,} allowed")
    if min(size) < 1 or max(size) > MAX_ASPECT * min(size):
        raise ItemError(f"the image is {width:,} x {height:,}: one side is over {MAX_ASPECT} times the other")


def _on_white(image: Image.Image) -> Image.Image:
    from PIL import Image

    if image.mode in ("F", "I") or image.mode.startswith("I;16"):
        return _grey(image).convert("RGB")
    if image.mode in ("P", "L", "RGB", "1") and "transparency" in image.info:
        image = image.convert("RGBA")
    if image.mode in ("RGBA", "LA", "PA"):
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def _grey(image: Image.Image) -> Image.Image:
    """An image of one channel with more than 8 bits as one of 8; Pillow's own conversion only cuts at 255.

    Values that already are within 0 and 255 stay, unless the format says that there are 16 bits.

    Raises:
        ItemError: values lie outside of what is known to be black and white, or are not numbers.
    """

    image.load()
    clear, deep = image.info.get("transparency"), image.mode.startswith("I;16")
    values = image if image.mode == "F" else image.convert("I")
    low, high = cast("tuple[float, float]", values.getextrema())
    white = _white(image.mode, deep, high)
    if not low >= 0 or high > white or (image.mode == "F" and not _all_numbers(image)):
        raise ItemError(f"its grey values go from {low:g} to {high:g}: save it with 8 or 16 bits per channel")
    if image.mode == "F":
        return image.point(lambda value: value * (255 / white) + 0.5).convert("L")
    table = [(value * 255 + white // 2) // white if value < white else 255 for value in range(2**16)]
    if isinstance(clear, int):
        table[clear] = 255
    return values.point(table, "L") if white > 255 else values.convert("L")


def _white(mode: str, deep: bool, high: float) -> int:
    """The value that stands for white."""
    if mode == "F" and high <= 1:
        return 1
    return 2**16 - 1 if deep or (mode == "I" and high > 255) else 255


def _all_numbers(image: Image.Image) -> bool:
    import numpy as np

    return bool(np.isfinite(np.asarray(image)).all())
