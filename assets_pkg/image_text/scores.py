"""Scores of every model in every condition: figures, ranks, color-perception-bench's table and figures.

A condition says what stands for an image on the image side: the image itself (``native``), its caption, both
(``fused``), or a text that gives an upper bound (``oracle``) or a baseline (``constant``, ``random``).
"""

from __future__ import annotations

import csv
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
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
    distance_statistics,
    partner_ranks,
    retrieval,
    separation,
)
from assets_pkg.image_text.pairs import Pair
from assets_pkg.image_text.samples import take_samples
from resources.encoders.factory import Availability
from resources.encoders.items import Input, Item, ItemEncoder
from resources.encoders.truncated import TruncatedEncoder
from resources.models.entry import ModelEntry
from storage.files import write_json
from storage.progress import Progress, no_progress

if TYPE_CHECKING:
    from resources.encoders.base import Vectors

Condition = Literal["native", "caption", "fused", "oracle", "constant", "random"]
MEASURED: tuple[Condition, ...] = ("native", "caption", "fused")
CONSTANT = "an image"
ORACLE = "An image of {text}."
RANDOM_SEED = 7


TABLE_HEADER = (
    "timestamp", "model_name", "n_colors", "mean_distance", "median_distance", "std_distance", "variance",
    "min_distance", "max_distance",
)  # fmt: skip
MOST_PAIRS = 20_000
"""The matrix of all cosines of this many pairs takes 3 GB."""


@dataclass
class Measured:
    """One model: figures, ranks and seconds of embedding, by condition (``texts``: seconds of the queries), and the
    length of its vectors."""

    figures: dict[Condition, dict[str, dict[str, float]]] = field(default_factory=dict)
    ranks: dict[Condition, dict[str, dict[str, list[int]]]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    dimensions: int = 0


def split_models(found: Sequence[Availability]) -> tuple[list[Availability], dict[str, str]]:
    """Models that can be measured, and for each of the others the reason why not.

    Raises:
        BenchmarkError: no model can be measured; the message has all reasons.
    """
    skipped = {model.name: model.problem for model in found if model.problem is not None}
    skipped |= {model.name: "does not embed text" for model in found if "text" not in model.entry.modalities}
    usable = [model for model in found if model.name not in skipped]
    if not usable:
        reasons = "; ".join(f"{name}: {why}" for name, why in skipped.items())
        raise BenchmarkError(f"none of the models can be used. {reasons}")
    return usable, skipped


def with_precision(model: Availability, precision: str | None) -> Availability:
    """A model of this machine to be loaded in another precision than the registry's. Vectors of both are never mixed:
    the precision is in the model's identity."""
    if precision is None or model.location.folder is None:
        return model
    return replace(model, entry=model.entry.model_copy(update={"dtype": precision}))


def truncates(entry: ModelEntry, settings: ScoreSettings) -> bool:
    """Whether a model's vectors are cut: the registry says that it is trained for that length."""
    return settings.truncate_dimensions in entry.matryoshka_dims


def truncating(
    open_model: Callable[[], ItemEncoder], entry: ModelEntry, settings: ScoreSettings
) -> Callable[[], ItemEncoder]:
    """Opens a model whose vectors are cut to ``truncate_dimensions``, if it is trained for that."""
    dimensions = settings.truncate_dimensions
    if dimensions is None or not truncates(entry, settings):
        return open_model
    return lambda: TruncatedEncoder(open_model(), dimensions)


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
            f"{len(pairs):,} pairs, and all combinations of at most {MOST_PAIRS:,} can be measured: set "
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
    write_json(
        folder / "scores.json",
        {"pairs": len(pairs), "models": {name: m.figures for name, m in made.items()}},
        ensure_ascii=True,
    )
    write_json(folder / "ranks.json", {name: m.ranks for name, m in made.items()}, ensure_ascii=True)
    write_json(folder / "timing.json", {name: m.seconds for name, m in made.items()}, ensure_ascii=True)
    write_json(
        folder / "dimensions.json", {name: m.dimensions for name, m in made.items()}, ensure_ascii=True
    )
    write_json(folder / "skipped.json", dict(skipped), ensure_ascii=True)
    write_json(folder / "samples.json", take_samples(pairs, captions), ensure_ascii=True)
    _write_table(folder / "benchmark_results.tsv", made)
    write_json(folder / "summary.json", _summary(made, skipped, len(pairs)), ensure_ascii=True)


def measure(
    name: str,
    encoder: ItemEncoder,
    pairs: Sequence[Pair],
    captions: Mapping[str, str | None],
    settings: ScoreSettings,
    figures: Path,
) -> Measured:
    """Measure one model in every condition that it supports. ``figures``: the folder of the figures."""
    made = Measured()
    started = time.monotonic()
    texts = encoder.embed([pair.text for pair in pairs], "query")
    made.seconds["texts"] = time.monotonic() - started
    made.dimensions = texts.shape[1]
    colours = [pair.rgb for pair in pairs if pair.rgb is not None]
    colour_differences = differences(colours) if len(colours) == len(pairs) else None
    for side in image_sides(encoder, pairs, captions, fuse=settings.fuse_captions):
        started = time.monotonic()
        images = side.embed()
        made.seconds[side.condition] = time.monotonic() - started
        _measure_side(made, side.condition, texts, images, colour_differences, settings)
        if side.condition in MEASURED:
            draw_correlation(
                figures,
                f"{name}+{side.condition}",
                colours if colour_differences is not None else None,
                texts,
                images,
            )
    return made


def _measure_side(
    made: Measured,
    condition: Condition,
    texts: Vectors,
    images: Vectors,
    colour_differences: Any,
    settings: ScoreSettings,
) -> None:
    similarities = cosines(texts, images)
    directions = {"t2i": partner_ranks(similarities), "i2t": partner_ranks(similarities.T)}
    made.figures[condition] = {
        "distance": distance_statistics(texts, images),
        "retrieval": retrieval(directions, settings.recall_at),
        "separation": separation(similarities, texts, images),
        **(
            {}
            if colour_differences is None
            else {"colour": colour_figures(colour_differences, similarities, texts, images)}
        ),
    }
    made.ranks[condition] = {
        direction: {"greater": ranks.greater.tolist(), "equal": ranks.equal.tolist()}
        for direction, ranks in directions.items()
    }


@dataclass(frozen=True)
class ImageSide:
    """The image side of one model in one condition: ``embed`` returns float32 [n, d]."""

    condition: Condition
    embed: Callable[[], Vectors]


def image_sides(
    encoder: ItemEncoder, pairs: Sequence[Pair], captions: Mapping[str, str | None], *, fuse: bool
) -> list[ImageSide]:
    """The conditions that a model supports, in the order of `Condition`.

    ``native`` needs a model that embeds images, ``caption`` needs captions, ``fused`` needs a model that embeds text
    and image together. An image without a caption gets the constant one, because a search over captions would know
    nothing about it. Always measured: ``oracle`` (a caption with the pair's own text, the upper bound of captions),
    ``constant`` (the same text for every image) and ``random`` (random unit vectors), the baselines.
    """
    texts = [captions.get(pair.pair_id) or CONSTANT for pair in pairs]

    def passages(make: Callable[[], Sequence[Input]]) -> Callable[[], Vectors]:
        return lambda: encoder.embed(make(), "passage")

    sides: list[ImageSide] = []
    if "image" in encoder.modalities:
        sides.append(ImageSide("native", passages(lambda: [Item(images=(pair.open(),)) for pair in pairs])))
    if captions:
        sides.append(ImageSide("caption", passages(lambda: texts)))
        if fuse and "text_image" in encoder.modalities:
            both = list(zip(pairs, texts, strict=True))
            sides.append(
                ImageSide(
                    "fused", passages(lambda: [Item(text=text, images=(pair.open(),)) for pair, text in both])
                )
            )
    sides.append(ImageSide("oracle", passages(lambda: [ORACLE.format(text=pair.text) for pair in pairs])))
    sides.append(
        ImageSide("constant", lambda: encoder.embed([CONSTANT], "passage").repeat(len(pairs), axis=0))
    )
    sides.append(ImageSide("random", lambda: _random(len(pairs), encoder.dimensions)))
    return sides


def _random(count: int, dimensions: int) -> Vectors:
    import numpy as np

    vectors = np.random.default_rng(RANDOM_SEED).standard_normal((count, dimensions), dtype=np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _write_table(path: Path, made: Mapping[str, Measured]) -> None:
    """Write color-perception-bench's table: a row for each model and measured condition; ``native`` has no suffix."""
    now = datetime.now(UTC).replace(tzinfo=None).isoformat()
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, delimiter="\t")
        writer.writerow(TABLE_HEADER)
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
