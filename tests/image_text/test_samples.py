"""Samples of pairs, and what a page shows of names and captions that look like HTML."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import pytest
from PIL import Image

from assets_pkg.image_text.page import verdict, with_ranks
from assets_pkg.image_text.pairs import Pair
from assets_pkg.image_text.samples import SAMPLES, SIZE, take_samples
from resources.encoders.items import encode_png

PHOTO = encode_png(Image.effect_mandelbrot((900, 500), (-2, -1, 1, 1), 20).convert("RGB"))


def pairs(count: int) -> list[Pair]:
    return [Pair(str(number), f"text {number} " + "x" * 400, PHOTO) for number in range(count)]


@pytest.mark.parametrize("count", [2, SAMPLES, 40])
def test_samples_are_spread_over_all_pairs_and_small(count: int) -> None:
    made = take_samples(pairs(count), {"0": "A caption."})
    rows = [sample["row"] for sample in made]
    assert len(rows) == min(SAMPLES, count)
    assert rows == sorted(set(rows))
    assert rows[0] == 0
    assert rows[-1] >= count - count // len(rows) - 1
    assert (made[0]["caption"], made[1]["caption"]) == ("A caption.", None)
    assert len(made[0]["text"]) == 300
    head, _, data = made[0]["image"].partition(",")
    assert head == "data:image/jpeg;base64"
    image = Image.open(io.BytesIO(base64.b64decode(data)))
    assert image.width <= SIZE[0] >= image.height
    assert image.width / image.height == pytest.approx(900 / 500, rel=0.02)


def _document(caption: float, native: float, *, above: bool) -> dict[str, object]:
    rows = [("caption", caption), ("native", native), ("oracle", 0.9)]
    measured = [
        {"model": "m", "condition": what, "metric": "MRR t2i", "value": value} for what, value in rows
    ]
    return {"main": "MRR t2i", "measured": measured, "against_floor": [{"above_floor": above}]}


def test_the_verdict_names_the_best_of_the_models_own_conditions() -> None:
    assert verdict(_document(0.3, 0.2, above=True)) == "m on captions is best: MRR t2i 0.300"
    assert verdict(_document(0.1, 0.2, above=True)) == "m on images is best: MRR t2i 0.200"
    assert verdict(_document(0.1, 0.2, above=False)).startswith(
        "No model finds images better than a constant"
    )


def test_samples_have_the_rank_of_the_best_model_and_of_ties_the_middle() -> None:
    ranks = {"m": {"caption": {"t2i": {"greater": [0, 4], "equal": [1, 3]}}}}
    document = _document(0.3, 0.2, above=True)
    shown = with_ranks([{"row": 0}, {"row": 1}], ranks, document)
    assert [each["rank"] for each in shown] == [1, 6]


def test_samples_can_be_written_as_json(tmp_path: Path) -> None:
    (tmp_path / "samples.json").write_text(json.dumps(take_samples(pairs(2), {})))
