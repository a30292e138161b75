"""Every model in every condition: vectors, figures, ranks, the origin's table and pictures."""

from __future__ import annotations

import csv
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from assets_pkg.config.sections.image_text import ScoreSettings
from assets_pkg.image_text.colour import differences
from assets_pkg.image_text.errors import BenchmarkError
from assets_pkg.image_text.figures import draw_correlation
from assets_pkg.image_text.measures import (
    colour_figures,
    cosines,
    origin_distances,
    retrieval,
    right_partner_ranks,
    separation,
)
from assets_pkg.image_text.pairs import Pair
from resources.encoders.factory import Availability
from resources.encoders.items import Input, Item, ItemEncoder
from storage.files import write_json
from storage.progress import Progress, no_progress

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


ORIGIN_HEADER = (
    "timestamp", "model_name", "n_colors", "mean_distance", "median_distance", "std_distance", "variance",
    "min_distance", "max_distance",
)  # fmt: skip
WAYS = ("t2i", "i2t")
MOST_PAIRS = 20_000
"""All cosines of so many pairs take 3 GB."""


@dataclass
class Measured:
    """One model: figures and ranks by condition, and what each condition took."""

    figures: dict[Condition, dict[str, dict[str, float]]] = field(default_factory=dict)
    ranks: dict[Condition, dict[str, dict[str, list[int]]]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)


def split_models(found: Sequence[Availability]) -> tuple[list[Availability], dict[str, str]]:
    """Models that can be measured, and the reason of each that cannot.

    Raises:
        BenchmarkError: none can; the message has every reason.
    """
    skipped = {model.name: model.problem for model in found if model.problem is not None}
    skipped |= {model.name: "does not embed text" for model in found if "text" not in model.entry.modalities}
    usable = [model for model in found if model.name not in skipped]
    if not usable:
        reasons = "; ".join(f"{name}: {why}" for name, why in skipped.items())
        raise BenchmarkError(f"none of the models can be used. {reasons}")
    return usable, skipped


def score_models(
    pairs: Sequence[Pair],
    captions: Mapping[str, str | None],
    models: Mapping[str, Callable[[], ItemEncoder]],
    skipped: Mapping[str, str],
    settings: ScoreSettings,
    folder: Path,
    progress: Progress = no_progress,
) -> None:
    """Measure every model (opened one after the other) and write an `ImageTextScores` folder.

    Raises:
        BenchmarkError: more pairs than fit in memory.
    """
    if len(pairs) > MOST_PAIRS:
        raise BenchmarkError(
            f"{len(pairs):,} pairs, and all against all are measured for at most {MOST_PAIRS:,}: set "
            "image_text.num_pairs_limit"
        )
    made: dict[str, Measured] = {}
    for number, (name, open_model) in enumerate(models.items()):
        encoder = open_model()
        try:
            made[name] = measure(name, encoder, pairs, captions, settings, folder / "figs")
        finally:
            encoder.close()
        progress(number + 1, len(models), "models")
    _write(
        folder / "scores.json", {"pairs": len(pairs), "models": {name: m.figures for name, m in made.items()}}
    )
    _write(folder / "ranks.json", {name: m.ranks for name, m in made.items()})
    _write(folder / "timing.json", {name: m.seconds for name, m in made.items()})
    _write(folder / "skipped.json", dict(skipped))
    _write_origin_table(folder / "benchmark_results.tsv", made)
    _write(folder / "summary.json", _summary(made, skipped, len(pairs)))


def measure(
    name: str,
    encoder: ItemEncoder,
    pairs: Sequence[Pair],
    captions: Mapping[str, str | None],
    settings: ScoreSettings,
    figures: Path,
) -> Measured:
    """One model in every condition that it can be measured in."""
    made = Measured()
    started = time.monotonic()
    texts = encoder.embed([pair.text for pair in pairs], "query")
    made.seconds["texts"] = time.monotonic() - started
    colours = [pair.rgb for pair in pairs if pair.rgb is not None]
    apart = differences(colours) if len(colours) == len(pairs) else None
    for side in image_sides(encoder, pairs, captions, fuse=settings.fuse_captions):
        started = time.monotonic()
        images = side.embed()
        made.seconds[side.condition] = time.monotonic() - started
        _measure_side(made, side.condition, texts, images, apart, settings)
        if side.condition in MEASURED:
            draw_correlation(
                figures, f"{name}+{side.condition}", colours if apart is not None else None, texts, images
            )
    return made


def _measure_side(
    made: Measured, condition: Condition, texts: Vectors, images: Vectors, apart: Any, settings: ScoreSettings
) -> None:
    similarities = cosines(texts, images)
    ways = {"t2i": right_partner_ranks(similarities), "i2t": right_partner_ranks(similarities.T)}
    made.figures[condition] = {
        "distance": origin_distances(texts, images),
        "retrieval": retrieval(ways, settings.recall_at),
        "separation": separation(similarities, texts, images),
        **({} if apart is None else {"colour": colour_figures(apart, similarities, texts, images)}),
    }
    made.ranks[condition] = {
        way: {"greater": ranks.greater.tolist(), "equal": ranks.equal.tolist()} for way, ranks in ways.items()
    }


def _write_origin_table(path: Path, made: Mapping[str, Measured]) -> None:
    """color-perception-bench's table: one row for each model and measured condition, native under the bare name."""
    now = datetime.now(UTC).replace(tzinfo=None).isoformat()
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, delimiter="\t")
        writer.writerow(ORIGIN_HEADER)
        for name, model in made.items():
            for condition, figures in model.figures.items():
                if condition not in MEASURED:
                    continue
                distance = figures["distance"]
                shown = [
                    f"{distance[key]:.6f}" for key in ("mean", "median", "std", "variance", "min", "max")
                ]
                label = name if condition == "native" else f"{name}+{condition}"
                writer.writerow([now, label, int(distance["n"]), *shown])


def _summary(made: Mapping[str, Measured], skipped: Mapping[str, str], pairs: int) -> dict[str, Any]:
    best = {
        condition: max(
            model.figures[condition]["retrieval"]["MRR t2i"]
            for model in made.values()
            if condition in model.figures
        )
        for condition in MEASURED
        if any(condition in model.figures for model in made.values())
    }
    return {
        "pairs": pairs,
        "models": len(made),
        "models_used": ", ".join(made),
        **{f"best_mrr_{condition}": value for condition, value in best.items()},
    }


def _write(path: Path, document: Any) -> None:
    write_json(path, document, ensure_ascii=True)
