"""Shards of vectors: put together they are what one process writes, whatever happened to them meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from assets_pkg.config.profile_files import load_profile
from assets_pkg.config.sections.prep import MiningSettings
from assets_pkg.prep.mining import mine_hard_negatives
from assets_pkg.reindex.corpus_embedding import embed_corpus, embed_passages
from resources.compute.distributed_embedding import ArrayEmbedding, embed_as_array_task, make_shards
from resources.encoders.cached import CachedEncoder
from resources.encoders.encoder_config import EncoderConfig
from resources.encoders.recipe import EncoderRecipe
from resources.encoders.shards import Shards
from storage.artifacts import Checkpoint, Passages, TrainingSet
from storage.embedding_cache import EmbeddingCache
from storage.formats.retriever_json import (
    PassageRef,
    RetrieverExample,
    write_corpus,
    write_retriever_file,
)
from storage.progress import Progress, no_progress
from tests.compute.slow_encoder import SlowEncoder, expected

TEXTS = [f"text {number}" for number in range(103)]


@pytest.fixture
def shards(tmp_path: Path) -> Shards:
    """Eleven shards of ten texts, the last of three, over row groups of another size."""
    source = tmp_path / "texts.parquet"
    pq.write_table(pa.table({"text": TEXTS}), source, row_group_size=17)
    (tmp_path / "shards").mkdir()
    return Shards(source, tmp_path / "shards", "passage", 10)


@pytest.fixture
def encoder(tmp_path: Path) -> SlowEncoder:
    return SlowEncoder(tmp_path, stop="")


def asked(folder: Path) -> list[str]:
    """First texts of the blocks that were embedded, in the order in which that began."""
    return (folder / "asked.txt").read_text().splitlines()


def test_every_text_has_its_vector_in_its_place(shards: Shards, encoder: SlowEncoder) -> None:
    make_shards(shards, encoder, 0, 1)
    assert shards.count == 11
    np.testing.assert_array_equal(np.concatenate(list(shards.vectors(encoder))), expected(TEXTS))
    assert asked(shards.folder.parent) == TEXTS[::10]


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "gone", "other"])
def test_a_damaged_shard_is_made_again(shards: Shards, encoder: SlowEncoder, damage: str) -> None:
    make_shards(shards, encoder, 0, 1)
    victim = shards.folder / "00000004.parquet"
    content = bytearray(victim.read_bytes())
    if damage == "gone":
        victim.unlink()
    elif damage == "other":  # of another number of texts
        victim.write_bytes((shards.folder / "00000010.parquet").read_bytes())
    else:
        content[60] ^= 1
        kept = {"cut": content[: len(content) // 2], "flip": content, "empty": b""}[damage]
        victim.write_bytes(bytes(kept))
    np.testing.assert_array_equal(np.concatenate(list(shards.vectors(encoder))), expected(TEXTS))
    assert asked(shards.folder.parent) == [*TEXTS[::10], TEXTS[40]]


def test_workers_share_the_shards_and_take_over_those_of_one_that_never_came(
    shards: Shards, encoder: SlowEncoder
) -> None:
    both = [threading.Thread(target=make_shards, args=(shards, encoder, worker, 3)) for worker in (0, 1)]
    for each in both:
        each.start()
    for each in both:
        each.join()
    assert not shards.missing()
    np.testing.assert_array_equal(np.concatenate(list(shards.vectors(encoder))), expected(TEXTS))
    assert set(asked(shards.folder.parent)) == set(TEXTS[::10])


def test_the_tasks_of_an_array_are_told_by_the_first(shards: Shards, tiny_model: Path) -> None:
    recipe = EncoderRecipe(
        str(tiny_model), "tiny", EncoderConfig("", "", 32, 32, batch_size=16), device="cpu"
    )
    share = shards.folder.parent / "share.json"
    done: list[int] = []

    def progress(so_far: int, total: int, unit: str, **figures: float) -> None:
        done.append(so_far)

    ended: list[bool] = []
    helper = threading.Thread(target=embed_as_array_task, args=(share, 1, lambda: bool(ended)))
    helper.start()
    ArrayEmbedding(share, 2, recipe)(shards, progress)
    helper.join(60)
    assert not helper.is_alive()
    assert not shards.missing()
    assert done[-1] == len(TEXTS)
    alone = recipe.open()
    whole = alone.embed(TEXTS, "passage")
    np.testing.assert_allclose(np.concatenate(list(shards.vectors(alone))), whole, atol=1e-6)


def test_a_task_that_is_never_told_ends_with_the_job(tmp_path: Path) -> None:
    embed_as_array_task(tmp_path / "share.json", 1, over=lambda: True)


def passages_of(folder: Path, count: int, new: Sequence[int] = ()) -> Passages:
    """Numbered texts; those with the numbers ``new`` say something else."""
    folder.mkdir()
    texts = [f"The pump number {number % 700} has pressure {number}." for number in range(count)]
    texts[5] = texts[4]
    for number in new:
        texts[number] = f"The kiln {number} is cold."
    ids = [f"p{number}" for number in range(count)]
    pq.write_table(
        pa.table({"passage_id": ids, "text": texts}), folder / "passages.parquet", row_group_size=2000
    )
    return Passages(folder, "passages", "v1")


class Workers:
    """All workers of a place: how many texts they were given each time, and what they embed with. ``stop``: they are
    killed when they have made so many shards."""

    def __init__(self, recipe: EncoderRecipe):
        self.encoder = recipe.open()
        self.given: list[int] = []
        self.made: list[int] = []
        self.stop: int | None = None

    def __call__(self, shards: Shards, progress: Progress) -> None:
        self.given.append(shards.rows)
        for number in shards.missing():
            if len(self.made) == self.stop:
                raise RuntimeError("killed")
            shards.make(number, self.encoder)
            self.made.append(number)


@dataclass
class Place:
    """A corpus embedded by several workers, with a cache."""

    workers: Workers
    known: CachedEncoder
    folder: Path
    model: Checkpoint

    def embed(self, passages: Passages, name: str) -> Path:
        work = self.folder / name
        work.mkdir(exist_ok=True)
        embed_corpus(passages, self.model, self.known, {}, work, no_progress, self.workers)
        return work


@pytest.fixture
def place(tmp_path: Path, tiny_model: Path) -> Place:
    recipe = EncoderRecipe(
        str(tiny_model), "tiny", EncoderConfig("", "", 32, 32, batch_size=64), device="cpu"
    )
    known = CachedEncoder(recipe.open(), EmbeddingCache(tmp_path / "cache"))
    return Place(Workers(recipe), known, tmp_path, Checkpoint(tmp_path, "base_model", "tiny"))


@pytest.mark.slow
def test_shards_put_together_are_the_bytes_of_one_process(place: Place, tmp_path: Path) -> None:
    passages = passages_of(tmp_path / "passages", 4500)
    alone, one = CachedEncoder(place.workers.encoder), tmp_path / "one"
    one.mkdir()
    embed_passages(passages, place.model, alone, {}, one, no_progress)
    together = place.embed(passages, "together")
    names = {each.name for each in together.iterdir()}
    assert names == {"embeddings.json", "embeddings.parquet"}
    for name in names:
        assert (one / name).read_bytes() == (together / name).read_bytes()
    assert place.workers.given == [4500]
    assert place.known.misses == 0  # the workers had embedded all


@pytest.mark.slow
def test_workers_are_given_only_what_is_new(place: Place, tmp_path: Path) -> None:
    place.embed(passages_of(tmp_path / "before", 4500), "first")
    changed = passages_of(tmp_path / "after", 4500, new=(7, 4200))
    after = place.embed(changed, "second")
    assert place.workers.given == [4500, 2]
    vectors = np.stack(pq.read_table(after / "embeddings.parquet").column("vector").to_pylist())
    texts = pq.read_table(changed.path / "passages.parquet").column("text").to_pylist()
    np.testing.assert_allclose(
        vectors, CachedEncoder(place.workers.encoder).embed(texts, "passage"), atol=1e-6
    )
    place.embed(changed, "third")
    assert place.workers.given == [4500, 2]


@pytest.mark.slow
def test_workers_that_were_killed_go_on_with_the_shards_that_are_missing(
    place: Place, tmp_path: Path
) -> None:
    passages = passages_of(tmp_path / "passages", 4500)
    place.workers.stop = 1
    with pytest.raises(RuntimeError, match="killed"):
        place.embed(passages, "work")
    place.workers.stop = None
    work = place.embed(passages, "work")
    assert place.workers.made == [0, 1]
    assert {each.name for each in work.iterdir()} == {"embeddings.json", "embeddings.parquet"}


def test_a_single_process_takes_over_from_workers_that_were_killed(place: Place, tmp_path: Path) -> None:
    passages = passages_of(tmp_path / "passages", 20)
    place.workers.stop = 0
    with pytest.raises(RuntimeError, match="killed"):
        place.embed(passages, "work")
    (tmp_path / "work" / "together.gone").mkdir()  # as a kill between two steps leaves it
    embed_corpus(passages, place.model, place.known, {}, tmp_path / "work", no_progress)
    assert {each.name for each in (tmp_path / "work").iterdir()} == {"embeddings.json", "embeddings.parquet"}


@pytest.mark.slow
def test_mining_finds_the_same_in_shards(tmp_path: Path, tiny_model: Path) -> None:
    passages = {f"d{number}": f"Pump {number} has valve {number * 7 % 90}." for number in range(90)}
    questions = [
        RetrieverExample(f"q{number}", f"Which valve has pump {number}?", (PassageRef(f"d{number}"),), ())
        for number in range(20)
    ]
    given, one, together = tmp_path / "given", tmp_path / "one", tmp_path / "together"
    for folder in (given, one, together):
        folder.mkdir()
    write_corpus(given / "corpus", passages.items())
    write_retriever_file(given / "train.json", questions)
    write_retriever_file(given / "val.json", [])
    (given / "splits.json").write_text('{"documents": {}, "held_out_passages": []}')
    training = TrainingSet(given, "training_set", "v1")
    settings = load_profile("laptop").prep.part(MiningSettings)
    recipe = EncoderRecipe(
        str(tiny_model), "tiny", EncoderConfig("", "", 32, 32, batch_size=64), device="cpu"
    )
    made: list[int] = []

    def in_shards(shards: Shards, progress: Progress) -> None:
        make_shards(shards, recipe.open(), 0, 1)
        made.append(shards.rows)

    mine_hard_negatives(training, recipe.open(), settings, one)
    mine_hard_negatives(training, recipe.open(), settings, together, make_shards=in_shards)
    assert made == [90]
    assert {each.name for each in one.iterdir()} == {each.name for each in together.iterdir()}
    for name in ("train_mined.automodel.json", "train_mined.automodel_unrolled.json", "summary.json"):
        assert (one / name).read_bytes() == (together / name).read_bytes()
