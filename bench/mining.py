"""Speed of hard-negative mining.

    python bench/mining.py library             # end to end against sentence-transformers' mine_hard_negatives
    python bench/mining.py search              # exact top-k on random unit vectors, 100k passages x 10k questions
    python bench/mining.py search --passages 1000000

``library`` reads ``stage1_data_prep`` and the base model below ``--root`` (``retune run -c laptop`` makes them); both
sides get the same questions, passages, model, batch size and margin. They run in one process with the same threads,
alternating for ``--repeats`` rounds; figures are medians. CPU seconds are of this process, so that they can be compared
on a machine with other load.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np

from assets_pkg.config.profile_files import load_profile
from assets_pkg.config.sections.prep import MiningSettings
from assets_pkg.prep.mining import mine_hard_negatives
from assets_pkg.retrieval.exact_search import PASSAGE_BLOCK, QUERY_BLOCK, exact_search
from resources.encoders.sentence_transformer import SentenceTransformerEncoder
from resources.machine.accelerator import find_accelerator
from storage.artifacts import TrainingSet
from storage.formats.retriever_json import (
    read_corpus,
    read_retriever_file,
    write_corpus,
    write_retriever_file,
)

PROFILE = load_profile("laptop")
NEGATIVES = 5
MARGIN = 0.95
BATCH = 128
DIMENSIONS = 384
SUSPECTED = 30
"""Passages above the ceiling for a question, in the synthetic search with ceilings."""


@dataclass(frozen=True)
class Times:
    """Medians, in seconds, and the wall seconds of every repeat."""

    cpu: float
    wall: float
    walls: list[float]


def alternate(
    works: Mapping[str, Callable[[], Any]], repeats: int
) -> tuple[dict[str, Any], dict[str, Times]]:
    """Results and times of ``works``, run alternately. Every other round has the opposite order, so that no function
    always follows the same one."""
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in works}
    results: dict[str, Any] = {}
    for number in range(repeats):
        for name in list(works)[:: -1 if number % 2 else 1]:
            cpu, wall = time.process_time(), time.perf_counter()
            results[name] = works[name]()
            taken[name].append((time.process_time() - cpu, time.perf_counter() - wall))
            say(f"round {number + 1} of {repeats}: {name} {taken[name][-1][1]:.1f} s\n")
    times = {
        name: Times(
            median(cpu for cpu, _ in each), median(wall for _, wall in each), [wall for _, wall in each]
        )
        for name, each in taken.items()
    }
    return results, times


def say(text: str) -> None:
    """Write progress to stderr, apart from the figures."""
    sys.stderr.write(text)
    sys.stderr.flush()


def show_progress(done: int, total: int, unit: str, **figures: float) -> None:
    say(f"\r{done:,} of {total:,} {unit} " + ("\r" if done == total else ""))


def threads() -> int:
    import torch

    return torch.get_num_threads()


def peak_gigabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


# ---- end to end --------------------------------------------------------------------------------------------------


def small_set(prep: Path, questions: int, passages: int, folder: Path) -> TrainingSet:
    """Distinct questions with one positive each, and a corpus with their passages and others."""
    source = read_retriever_file(prep / "train.json")
    asked: set[str] = set()
    chosen = []
    for example in source.examples:
        if len(example.positives) == 1 and example.question not in asked and len(chosen) < questions:
            asked.add(example.question)
            chosen.append(example)
    needed = {each.passage_id for example in chosen for each in example.positives}
    texts = dict(source.passages())
    others = [name for name in texts if name not in needed][: max(0, passages - len(needed))]
    write_corpus(
        folder / "corpus", ((name, texts[name]) for name in texts if name in needed or name in others)
    )
    write_retriever_file(folder / "train.json", chosen)
    write_retriever_file(folder / "val.json", [])
    return TrainingSet(folder, "training_set", "bench")


def by_retune(training: TrainingSet, base: Path, out: Path) -> dict[str, list[str]]:
    own = {"hard_negatives_to_mine": NEGATIVES, "hard_neg_margin_type": "perc", "hard_neg_margin": MARGIN}
    settings = PROFILE.prep.part(MiningSettings).model_copy(update={**own, "mining_batch_size": BATCH})
    with SentenceTransformerEncoder(
        base, "bench", find_accelerator(), PROFILE.model.encoder_config(BATCH)
    ) as encoder:
        mine_hard_negatives(training, encoder, settings, out)
    texts = dict(read_corpus(training.path / "corpus"))
    mined = read_retriever_file(out / "train_mined.automodel.json").examples
    return {each.question: [texts[one.passage_id] for one in each.negatives] for each in mined}


def by_library(training: TrainingSet, base: Path) -> dict[str, list[str]]:
    from datasets import Dataset
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.util import mine_hard_negatives as library

    texts = dict(read_corpus(training.path / "corpus"))
    examples = read_retriever_file(training.path / "train.json").examples
    model = SentenceTransformer(str(base), device="cpu", local_files_only=True)
    model.max_seq_length = PROFILE.model.passage_max_length
    mined = library(
        Dataset.from_dict(
            {
                "question": [each.question for each in examples],
                "positive": [texts[each.positives[0].passage_id] for each in examples],
            }
        ),
        model,
        corpus=list(dict.fromkeys(texts.values())),
        relative_margin=1 - MARGIN,
        num_negatives=NEGATIVES,
        range_max=100,
        output_format="n-tuple",
        batch_size=BATCH,
        verbose=False,
    )
    names = [f"negative_{number}" for number in range(1, NEGATIVES + 1)]
    return {row["question"]: [row[name] for name in names] for row in mined.to_list()}


def library(options: argparse.Namespace) -> None:
    prep = options.root / "stage1_data_prep"
    base = max((options.root / "artifacts" / "base_model").iterdir()) / "model" / "consolidated"
    with tempfile.TemporaryDirectory() as scratch:
        folder, out = Path(scratch) / "set", Path(scratch) / "mined"
        folder.mkdir()
        out.mkdir()
        few = small_set(prep, 8, 16, folder)
        by_library(few, base)  # imports and first calls
        by_retune(few, base, out)
        training = small_set(prep, options.questions, options.passages or 2000, folder)
        works = {
            "sentence-transformers": partial(by_library, training, base),
            "retune": partial(by_retune, training, base, out),
        }
        found, times = alternate(works, options.repeats)
    theirs, ours = found["sentence-transformers"], found["retune"]
    both = [question for question in theirs if len(ours[question]) == NEGATIVES]
    same = sum(ours[question] == theirs[question] for question in both)
    alike = np.mean([len(set(ours[q]) & set(theirs[q])) / NEGATIVES for q in both])
    print(f"{options.questions} questions, {options.repeats} rounds, {threads()} threads")
    for name, each in times.items():
        walls = ", ".join(f"{wall:.1f}" for wall in each.walls)
        print(f"{name:22} {each.cpu:6.1f} cpu-s {each.wall:6.1f} s  (rounds: {walls})")
    their, our = times["sentence-transformers"], times["retune"]
    print(
        f"retune is {their.cpu / our.cpu:.2f}x as fast by cpu, {their.wall / our.wall:.2f}x by wall; {same} of "
        f"{len(both)} questions have the same negatives in the same order, {alike:.1%} of negatives are shared"
    )


# ---- search ------------------------------------------------------------------------------------------------------


def random_vectors(path: Path, count: int, seed: int) -> np.ndarray:
    """Unit vectors in a file, float32 [count, 384], mapped into memory."""
    rng = np.random.default_rng(seed)
    stored = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(count, DIMENSIONS))
    for start in range(0, count, 50_000):
        block = rng.standard_normal((min(50_000, count - start), DIMENSIONS), dtype=np.float32)
        stored[start : start + len(block)] = block / np.linalg.norm(block, axis=1, keepdims=True)
    stored.flush()
    return np.load(path, mmap_mode="r")


def plain_products(queries: np.ndarray, passages: np.ndarray) -> None:
    """All products in the blocks of the search, without selection: the machine's rate."""
    import torch

    held = torch.empty((QUERY_BLOCK, PASSAGE_BLOCK))
    left = torch.from_numpy(queries)
    for start in range(0, len(passages), PASSAGE_BLOCK):
        right = torch.from_numpy(np.array(passages[start : start + PASSAGE_BLOCK])).T
        for top in range(0, len(queries), QUERY_BLOCK):
            part = left[top : top + QUERY_BLOCK]
            torch.mm(part, right, out=held[: len(part), : right.shape[1]])


def search(options: argparse.Namespace) -> None:
    count = options.passages or 100_000
    operations = 2 * count * options.queries * DIMENSIONS / 1e9
    with tempfile.TemporaryDirectory() as scratch:
        passages = random_vectors(Path(scratch) / "passages.npy", count, seed=0)
        queries = np.array(random_vectors(Path(scratch) / "queries.npy", options.queries, seed=1))
        ceilings = np.full(len(queries), float(np.sort(queries[0] @ passages.T)[-SUSPECTED]))
        plain_products(queries[:QUERY_BLOCK], passages[:50_000])  # first calls
        find = partial(exact_search, queries, passages, 5, progress=show_progress)
        works = {
            "plain products": partial(plain_products, queries, passages),
            "top 5": find,
            "under a ceiling": partial(find, ceilings=ceilings),
        }
        _, times = alternate(works, options.repeats)
        mapped = (Path(scratch) / "passages.npy").stat().st_size / 1e9
    print(f"{count:,} passages x {len(queries):,} questions, {options.repeats} rounds, {threads()} threads")
    plain = times["plain products"]
    for name, each in times.items():
        print(
            f"{name:16} {each.wall:7.1f} s {each.cpu:7.1f} cpu-s {operations / each.cpu:6.1f} GFLOP/cpu-s "
            f"{plain.cpu / each.cpu:5.0%} of plain by cpu, {plain.wall / each.wall:5.0%} by wall"
        )
    print(f"peak memory {peak_gigabytes():.2f} GB, the mapped file of passages ({mapped:.2f} GB) included")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["library", "search"])
    parser.add_argument("--root", type=Path, default=Path("output/embed"))
    parser.add_argument("--questions", type=int, default=300, help="of `library`")
    parser.add_argument("--queries", type=int, default=10_000, help="of `search`")
    parser.add_argument("--passages", type=int)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    {"library": library, "search": search}[options.what](options)


if __name__ == "__main__":
    main()
