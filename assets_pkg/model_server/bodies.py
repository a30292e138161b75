"""The request bodies of embedding clients, converted to items.

Accepted on ``/v1/embeddings``: OpenAI (texts), NIM (``modality``, ``input_type``; a text followed by a data URI is
both), Infinity (``modality``), Jina and SGLang (``{"text"}``/``{"image"}``), DeepInfra (lists of parts), llama.cpp
(``{"content": [parts]}``), vLLM (``messages``); on ``/v1/multimodalembeddings`` Voyage (``inputs``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from assets_pkg.nim.errors import ApiError
from assets_pkg.nim.schemas import Body
from resources.encoders.items import Item, ItemError, decode_image, is_data_uri

if TYPE_CHECKING:
    from PIL import Image

MAX_INPUTS = 256
MAX_IMAGES = 8
DATA_URI_AT_END = re.compile(r"\s?(data:image/[\w.+-]+;base64,\S+)\s*$", re.IGNORECASE)
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
        Field(description="A text or image, or a list; or items {text, image}, {content: [parts]}, [parts]."),
    ] = None
    inputs: Annotated[list[dict[str, Any]] | None, Field(description="Voyage: items {content: [parts]}.")] = (
        None
    )
    messages: Annotated[
        list[dict[str, Any]] | None, Field(description="vLLM: a conversation, one vector.")
    ] = None
    modality: Annotated[str | list[str] | None, Field(description="text, image or text_image.")] = None
    model: str | None = None
    input_type: Literal["query", "passage", "document"] | None = None
    dimensions: Annotated[int | None, Field(gt=0)] = None
    encoding_format: Literal["float", "base64"] | None = None


def text_items(values: Sequence[str]) -> list[Item]:
    """Texts. Raises `ApiError`: one is empty."""
    if not all(value.strip() for value in values):
        raise ApiError("input is empty")
    return [Item(text=value) for value in values]


def image_items(values: Sequence[str]) -> list[Item]:
    """Images from base64 or data URIs. Raises `ApiError`."""
    return [Item(images=(_image(value, f"input[{index}]"),)) for index, value in enumerate(values)]


def items_of(body: MultimodalBody) -> list[Item]:
    """The items of a body in any dialect.

    Raises:
        ApiError: the body has no input or too many, or an input cannot be read; the message says which.
    """
    if body.messages is not None:
        return [_conversation(body.messages)]
    inputs: Any = body.inputs if body.inputs is not None else body.input
    values: list[Any] = inputs if isinstance(inputs, list) else [inputs]
    if inputs is None or not values:
        raise ApiError("input is missing or empty")
    if len(values) > MAX_INPUTS:
        raise ApiError(f"Batch size {len(values)} exceeds limit {MAX_INPUTS}")
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


def _item(value: Any, kind: str | None, path: str) -> Item:
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


def _from_string(value: str, kind: str | None, path: str) -> Item:
    if kind == "text":
        return _checked(value, (), path)
    if kind == "image" or (kind is None and is_data_uri(value)):
        return Item(images=(_image(value, path),))
    found = DATA_URI_AT_END.search(value)
    if found is None:
        if kind == "text_image":
            raise ApiError(f"{path}: modality text_image is a text, a space and a data URI of an image")
        return _checked(value, (), path)
    return _checked(value[: found.start()], (_image(found.group(1), path),), path)


def _from_fields(value: Mapping[str, Any], path: str) -> Item:
    image = value.get("image")
    images = [] if image is None else image if isinstance(image, list) else [image]
    return _checked(value.get("text") or "", tuple(_image(one, path) for one in images), path)


def _from_parts(parts: Sequence[Any], path: str) -> Item:
    """Content parts of chat messages; texts are joined by line breaks."""
    texts: list[str] = []
    images: list[Image.Image] = []
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


def _conversation(messages: Sequence[Mapping[str, Any]]) -> Item:
    """A conversation as one item: the system message is the instruction, the user's the content."""
    instruction: str | None = None
    item: Item | None = None
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
    return Item(item.text, item.images, instruction)


def _checked(text: Any, images: tuple[Image.Image, ...], path: str, *, empty: bool = False) -> Item:
    if not isinstance(text, str):
        raise ApiError(f"{path}: the text is not a string")
    if not text.strip() and not images and not empty:
        raise ApiError(f"{path} is empty")
    if len(images) > MAX_IMAGES:
        raise ApiError(f"{path}: {len(images)} images, more than the {MAX_IMAGES} allowed")
    return Item(text if text.strip() or not images else None, images)


def _image(value: Any, path: str) -> Image.Image:
    if not isinstance(value, str):
        raise ApiError(f"{path}: an image must be base64 or a data URI")
    try:
        return decode_image(value)
    except ItemError as error:
        raise ApiError(f"{path}: {error}") from error
