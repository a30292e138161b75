"""The request bodies of embedding clients, converted to items: first as they were sent, then with images decoded.

Accepted on ``/v1/embeddings``: OpenAI (texts), NIM (``modality``, ``input_type``; a text followed by a data URI is
both), Infinity (``modality``), Jina and SGLang (``{"text"}``/``{"image"}``), DeepInfra (lists of parts), llama.cpp
(``{"content": [parts]}``), vLLM (``messages``); on ``/v1/multimodalembeddings`` Voyage (``inputs``).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from pydantic import BeforeValidator, Field

from assets_pkg.nim.errors import ApiError
from assets_pkg.nim.schemas import Body
from resources.encoders.items import (
    MAX_IMAGE_PIXELS,
    Item,
    ItemError,
    TooManyPixelsError,
    decode_image,
    is_data_uri,
)
from resources.models.entry import Modality

if TYPE_CHECKING:
    from PIL import Image

MAX_INPUTS = 256
MAX_IMAGES = 8
MAX_REQUEST_PIXELS = 100_000_000
"""The pixels of all images of a request: one request is decoded at a time, into three bytes a pixel."""

DATA_URI = re.compile(r"data:image/[\w.+-]+;base64,\S", re.IGNORECASE)
T = TypeVar("T")


def _bounded(value: T) -> T:
    """Refuse a list that is too long before its items are looked at."""
    if isinstance(value, list) and len(value) > MAX_INPUTS:
        raise ApiError(f"Batch size {len(value)} exceeds limit {MAX_INPUTS}")
    return value


Bounded = BeforeValidator(_bounded)
Texts = Annotated[list[str], Field(min_length=1, max_length=MAX_INPUTS)]


class TextBody(Body):
    """The body of POST /txt/embed."""

    input: Annotated[str | Texts, Field(description="One text, or a list of texts.")]


class ImageBody(Body):
    """The body of POST /img/embed."""

    input: Annotated[str | Texts, Field(description="One image, or a list, as base64 or data URI.")]


class MultimodalBody(Body):
    """The body of POST /v1/embeddings. Fields not listed are ignored."""

    input: Annotated[
        str | list[str | dict[str, Any] | list[Any]] | None,
        Bounded,
        Field(description="A text or image, or a list; or items {text, image}, {content: [parts]}, [parts]."),
    ] = None
    inputs: Annotated[
        list[dict[str, Any]] | None, Bounded, Field(description="Voyage: items {content: [parts]}.")
    ] = None
    messages: Annotated[
        list[dict[str, Any]] | None, Bounded, Field(description="vLLM: a conversation, one vector.")
    ] = None
    modality: Annotated[str | list[str] | None, Bounded, Field(description="text, image or text_image.")] = (
        None
    )
    model: str | None = None
    input_type: Literal["query", "passage", "document"] | None = None
    dimensions: Annotated[int | None, Field(gt=0)] = None
    encoding_format: Literal["float", "base64"] | None = None


@dataclass(frozen=True)
class SentItem:
    """An item as it was sent: ``images`` are base64 or data URIs, ``path`` says where in the body it stands."""

    path: str
    text: str | None = None
    images: tuple[str, ...] = ()
    instruction: str | None = None

    @property
    def modality(self) -> Modality:
        return Item(self.text).modality if not self.images else "text_image" if self.text else "image"


def text_items(values: Sequence[str]) -> list[SentItem]:
    """Texts. Raises `ApiError`: one is empty."""
    if not all(value.strip() for value in values):
        raise ApiError("input is empty")
    return [SentItem(f"input[{index}]", value) for index, value in enumerate(values)]


def image_items(values: Sequence[str]) -> list[SentItem]:
    """Images from base64 or data URIs."""
    return [SentItem(f"input[{index}]", images=(value,)) for index, value in enumerate(values)]


def decoded(items: Sequence[SentItem], modalities: Collection[Modality], model: str) -> list[Item]:
    """Items with their images decoded, after a check that the model can embed every one of them.

    Raises:
        ApiError: the model does not have an item's modality, an image cannot be read, or the images of all items have
            more than ``MAX_REQUEST_PIXELS`` pixels.
    """
    for item in items:
        if item.modality not in modalities:
            choices = ", ".join(modalities)
            raise ApiError(f"{item.path}: {model} does not embed {item.modality}, only {choices}")
    left = MAX_REQUEST_PIXELS
    read: list[Item] = []
    for item in items:
        images: list[Image.Image] = []
        for sent in item.images:
            images.append(_decoded(sent, item.path, left))
            left -= images[-1].width * images[-1].height
        read.append(Item(item.text, tuple(images), item.instruction))
    return read


def _decoded(sent: str, path: str, left: int) -> Image.Image:
    """An image of at most ``left`` pixels, the number that the request has left; its header is asked first."""
    try:
        return decode_image(sent, max_pixels=min(left, MAX_IMAGE_PIXELS))
    except TooManyPixelsError as error:
        if left >= MAX_IMAGE_PIXELS:
            raise ApiError(f"{path}: {error}") from error
        limit = f"{MAX_REQUEST_PIXELS:,} pixels allowed in a request"
        raise ApiError(f"{path}: the images have more than the {limit}") from error
    except ItemError as error:
        raise ApiError(f"{path}: {error}") from error


def items_of(body: MultimodalBody) -> list[SentItem]:
    """The items of a body in any dialect.

    Raises:
        ApiError: the body has no input, or an input is of another form; the message says which.
    """
    if body.messages is not None:
        return [_conversation(body.messages)]
    inputs: Any = body.inputs if body.inputs is not None else body.input
    values: list[Any] = inputs if isinstance(inputs, list) else [inputs]
    if inputs is None or not values:
        raise ApiError("input is missing or empty")
    kinds = _modalities(body.modality, len(values))
    return [
        _item(value, kind, f"input[{index}]")
        for index, (value, kind) in enumerate(zip(values, kinds, strict=True))
    ]


def _modalities(modality: str | list[str] | None, count: int) -> list[str | None]:
    """The modality of each of ``count`` inputs; None where it is to be recognised."""
    kinds: list[str | None] = list(modality) if isinstance(modality, list) else [modality] * count
    if len(kinds) == 1:
        kinds *= count
    if len(kinds) != count:
        raise ApiError("modality must be one value, or one for each input")
    unknown = [kind for kind in kinds if kind not in (None, "text", "image", "text_image")]
    if unknown:
        raise ApiError("modality must be text, image or text_image")
    return kinds


def _item(value: Any, kind: str | None, path: str) -> SentItem:
    if isinstance(value, str):
        return _from_string(value, kind, path)
    if isinstance(value, list):
        return _from_parts(value, path)
    if isinstance(value, Mapping):
        if isinstance(value.get("content"), list):
            return _from_parts(value["content"], path)
        if "type" in value:
            return _from_parts([value], path)
        return _from_fields(value, path)
    raise ApiError(f"{path}: must be a text, an image or parts of both; token ids are not read here")


def _from_string(value: str, kind: str | None, path: str) -> SentItem:
    if kind == "text":
        return _checked(value, (), path)
    if kind == "image" or (kind is None and is_data_uri(value)):
        return SentItem(path, images=(value,))
    found = _data_uri_at_end(value)
    if not found:
        if kind == "text_image":
            raise ApiError(f"{path}: modality text_image is a text, a space and a data URI of an image")
        return _checked(value, (), path)
    text = value.removesuffix(found)
    # One space, or other character of its kind, divides the two.
    return _checked(text[:-1] if text[-1:].isspace() else text, (found.rstrip(),), path)


def _data_uri_at_end(value: str) -> str:
    """The data URI of an image at the end of a text, with the blanks behind it; empty where there is none.

    Only the last word is searched: a search of the whole text for something that ends it takes quadratic time.
    """
    words = value.rsplit(maxsplit=1)
    found = DATA_URI.search(words[-1]) if words else None
    return value[len(value.rstrip()) - len(words[-1]) + found.start() :] if found else ""


def _from_fields(value: Mapping[str, Any], path: str) -> SentItem:
    image = value.get("image")
    images = [] if image is None else image if isinstance(image, list) else [image]
    return _checked(value.get("text") or "", tuple(_image(one, path) for one in images), path)


def _from_parts(parts: Sequence[Any], path: str) -> SentItem:
    """Content parts of chat messages; texts are joined by line breaks."""
    texts: list[str] = []
    images: list[str] = []
    for part in parts:
        if not isinstance(part, Mapping):
            raise ApiError(f"{path}: a list must hold parts with a type; token ids are not read here")
        kind = part.get("type")
        if kind in ("text", "input_text") and isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif kind in ("image_url", "input_image", "image_base64", "image"):
            images.append(_image(_image_value(part, str(kind)), path))
        else:
            raise ApiError(f"{path}: a part must be of type text, image_url, image_base64 or image")
    return _checked("\n".join(texts), tuple(images), path)


def _image_value(part: Mapping[str, Any], kind: str) -> Any:
    value = part.get({"input_image": "image_url"}.get(kind, kind))
    return value.get("url") if isinstance(value, Mapping) else value


def _conversation(messages: Sequence[Mapping[str, Any]]) -> SentItem:
    """A conversation as one item: the system message is the instruction, the user's the content."""
    instruction: str | None = None
    item: SentItem | None = None
    for index, message in enumerate(messages):
        path, role = f"messages[{index}]", message.get("role")
        content = message.get("content")
        parsed = _checked(content, (), path, empty=True) if isinstance(content, str) else None
        if parsed is None:
            parsed = _from_parts(content, path) if isinstance(content, list) else None
        if parsed is None or role not in ("system", "user"):
            raise ApiError(f"{path}: must be a system or user message with content")
        if role == "system":
            instruction = parsed.text
        elif item is not None:
            raise ApiError(f"{path}: one user message gives one vector; send one request for each")
        else:
            item = parsed
    if item is None:
        raise ApiError("messages has no user message")
    return replace(item, instruction=instruction)


def _checked(text: Any, images: tuple[str, ...], path: str, *, empty: bool = False) -> SentItem:
    if not isinstance(text, str):
        raise ApiError(f"{path}: the text is not a string")
    if not text.strip() and not images and not empty:
        raise ApiError(f"{path} is empty")
    if len(images) > MAX_IMAGES:
        raise ApiError(f"{path}: {len(images)} images, more than the {MAX_IMAGES} allowed")
    return SentItem(path, text if text.strip() or not images else None, images)


def _image(value: Any, path: str) -> str:
    if not isinstance(value, str):
        raise ApiError(f"{path}: an image must be base64 or a data URI")
    return value
