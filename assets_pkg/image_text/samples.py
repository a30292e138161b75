"""Some of the pairs, small enough for a report."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

from assets_pkg.image_text.pairs import Pair

SAMPLES = 12
SIZE = (208, 144)
"""The largest width and height of a sample's image, in pixels."""

LONGEST_TEXT = 300


def take_samples(pairs: Sequence[Pair], captions: Mapping[str, str | None]) -> list[dict[str, Any]]:
    """Pairs at equal distances in the order of all, as `ImageTextScores.samples` has them."""
    count = min(SAMPLES, len(pairs))
    rows = [row * len(pairs) // count for row in range(count)]
    return [
        {
            "row": row,
            "pair_id": pairs[row].pair_id,
            "text": _short(pairs[row].text),
            "caption": _short(captions.get(pairs[row].pair_id)),
            "image": _small(pairs[row]),
        }
        for row in rows
    ]


def _small(pair: Pair) -> str:
    """The image as a JPEG of at most `SIZE`, as a data URI."""
    image = pair.open()
    image.thumbnail(SIZE)
    stream = io.BytesIO()
    image.save(stream, format="JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode("ascii")


def _short(text: str | None) -> str | None:
    return text if text is None or len(text) <= LONGEST_TEXT else text[: LONGEST_TEXT - 1] + "…"
