"""Images are read safely and the same way, however they come."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from resources.encoders.items import Item, ItemError, as_items, data_uri, decode_image, encode_png

RED = Image.new("RGB", (6, 4), (255, 0, 0))


def png(image: Image.Image, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format="PNG", **options)  # type: ignore[arg-type]
    return stream.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        png(RED),
        base64.b64encode(png(RED)).decode(),
        data_uri(RED),
        data_uri(RED).replace("data:image/png", "DATA:image/PNG"),
        base64.encodebytes(png(RED)).decode(),
    ],
)
def test_every_form_gives_the_same_image(data: str | bytes) -> None:
    image = decode_image(data)
    assert (image.mode, image.size, image.tobytes()) == ("RGB", (6, 4), RED.tobytes())


def test_transparency_becomes_white() -> None:
    clear = Image.new("RGBA", (2, 2), (0, 0, 255, 0))
    half = Image.new("RGBA", (2, 2), (0, 0, 0, 128))
    palette = Image.new("P", (2, 2), 0)
    assert decode_image(png(clear)).getpixel((0, 0)) == (255, 255, 255)
    assert decode_image(png(half)).getpixel((0, 0)) == (127, 127, 127)
    assert decode_image(png(palette, transparency=0)).getpixel((0, 0)) == (255, 255, 255)
    assert decode_image(png(Image.new("L", (2, 2), 9))).getpixel((0, 0)) == (9, 9, 9)


def grey(values: list[float], dtype: str, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.array([values], dtype)).save(stream, kind, **options)  # type: ignore[arg-type]
    return stream.getvalue()


SIXTEEN = [0, 257 * 9, 257 * 128, 65535]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (grey(SIXTEEN, "uint16", "PNG"), [0, 9, 128, 255]),
        (grey(SIXTEEN, "uint16", "TIFF"), [0, 9, 128, 255]),
        (grey(SIXTEEN, ">u2", "TIFF"), [0, 9, 128, 255]),
        (grey(SIXTEEN, "int32", "TIFF"), [0, 9, 128, 255]),
        (grey([0, 9, 128, 255], "uint16", "PNG"), [0, 0, 0, 1]),
        (grey([0, 9, 128, 255], "int32", "TIFF"), [0, 9, 128, 255]),
        (grey([0, 0.25, 0.5, 1], "float32", "TIFF"), [0, 64, 128, 255]),
        (grey([0, 9, 128, 255], "float32", "TIFF"), [0, 9, 128, 255]),
    ],
)
def test_grey_of_more_than_8_bits_is_scaled(data: bytes, expected: list[int]) -> None:
    image = decode_image(data)
    assert image.mode == "RGB"
    assert [image.getpixel((x, 0)) for x in range(4)] == [(each,) * 3 for each in expected]


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        ([0, 70_000], "int32"),
        ([-1, 5], "int32"),
        ([0, 1e6], "float32"),
        ([-0.5, 1], "float32"),
        ([0.5, np.nan, 1], "float32"),
        ([np.nan, 1], "float32"),
        ([0, np.inf], "float32"),
    ],
)
def test_grey_values_of_unknown_range_are_refused(values: list[float], dtype: str) -> None:
    with pytest.raises(ItemError, match="save it with 8 or 16 bits per channel"):
        decode_image(grey(values, dtype, "TIFF"))


def test_a_colour_that_stands_for_transparent_becomes_white() -> None:
    levels = Image.fromarray(np.array([[7, 9]], "uint8"))
    assert [decode_image(png(levels, transparency=7)).getpixel((x, 0)) for x in (0, 1)] == [
        (255, 255, 255),
        (9, 9, 9),
    ]
    clear_red = decode_image(png(RED, transparency=(255, 0, 0)))
    assert clear_red.getpixel((0, 0)) == (255, 255, 255)
    deep = Image.fromarray(np.array([[257 * 7, 257 * 9]], "uint16"))
    assert decode_image(png(deep, transparency=257 * 7)).getpixel((0, 0)) == (255, 255, 255)


def test_a_rotated_photograph_is_turned_upright() -> None:
    stream = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    RED.save(stream, format="JPEG", exif=exif)
    assert decode_image(stream.getvalue()).size == (4, 6)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("https://example.org/a.png", "URLs are not fetched"),
        ("FILE:///etc/passwd", "URLs are not fetched"),
        ("data:text/plain;base64,aGk=", "begins with data:image"),
        ("data:image/png,abc", "begins with data:image"),
        ("@@", "not base64"),
        ("aGk=", "not an image of a format"),
        (b"", "not an image of a format"),
    ],
)
def test_what_is_no_image_is_refused(data: str | bytes, message: str) -> None:
    with pytest.raises(ItemError, match=message):
        decode_image(data)


def test_limits_hold() -> None:
    with pytest.raises(ItemError, match="more than the 50 allowed"):
        decode_image(png(RED), max_bytes=50)
    with pytest.raises(ItemError, match="more than the 60 bytes allowed"):
        decode_image(data_uri(RED), max_bytes=60)
    with pytest.raises(ItemError, match="6 x 4 pixels, more than the 20 allowed"):
        decode_image(png(RED), max_pixels=20)
    with pytest.raises(ItemError, match="one side is over 200 times the other"):
        decode_image(png(Image.new("RGB", (1000, 4))))


def test_items_know_their_modality_and_their_digest() -> None:
    assert [item.modality for item in (Item("a"), Item(images=(RED,)), Item("a", (RED,)))] == [
        "text", "image", "text_image",
    ]  # fmt: skip
    assert Item(images=(RED,)).digest == Item(images=(decode_image(encode_png(RED)),)).digest
    different = [
        Item("a"),
        Item("a", instruction="b"),
        Item("a", (RED,)),
        Item(images=(RED,)),
        Item(images=(RED, RED)),
    ]
    assert len({item.digest for item in different}) == len(different)


def test_what_a_model_cannot_read_is_named() -> None:
    with pytest.raises(ItemError, match="item 2: neither text nor image"):
        as_items(["a", "", Item()], ("text",), "m")
    with pytest.raises(ItemError, match="item 0: m does not embed image, only text"):
        as_items([Item(images=(RED,))], ("text",), "m")
