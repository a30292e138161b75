"""Cost of re-indexing and searching.

    python bench/reindex.py embed                        # passages/s against a bare loop of the same encoder
    python bench/reindex.py search --rows 100000         # index build, latency, memory; random unit vectors x 384
    python bench/reindex.py incremental [CRANFIELD]      # a full index, then 1 % of documents changed, 1 % deleted

``incremental`` makes a project with 20,000 passages from the standard library's documentation, the BEIR folder
CRANFIELD if there is one, and variants of both; its runs are Dagster runs, as the sensors start them. CPU seconds are
of this process, so that they can be compared on a machine with other load.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import dagster as dg
import numpy as np
import pyarrow as pa

from assets_pkg.automation.execute import run_assets
from assets_pkg.build import build_definitions
from assets_pkg.config.profile import Profile
from assets_pkg.config.profile_files import load_profile
from assets_pkg.corpus.passages import passages_of, split_passages
from assets_pkg.corpus.sources import read_corpus
from assets_pkg.finetune.base_model import fetch_base_model
from assets_pkg.reindex.corpus_embedding import embed_passages
from assets_pkg.reindex.index import index_type
from assets_pkg.reindex.searched_index import current_index
from assets_pkg.reindex.searcher import open_searcher
from resources.encoders.cached import CachedEncoder
from resources.encoders.sentence_transformer import SentenceTransformerEncoder
from resources.machine.accelerator import find_accelerator
from resources.vector_store.base import index_schema
from resources.vector_store.lance import LanceIndex
from storage.artifact_store import ArtifactStore
from storage.artifacts import Checkpoint, Corpus, Document, Passages
from storage.embedding_cache import EmbeddingCache
from storage.formats.beir import read_documents
from storage.progress import no_progress

DIMENSIONS = 384
SEARCHES = 200
K = 10
INDEXED = ["corpus_embeddings", "vector_index"]


def timed(work: Callable[[], Any]) -> tuple[Any, float, float]:
    """The result of ``work``, its CPU seconds and its wall seconds."""
    cpu, wall = time.process_time(), time.perf_counter()
    result = work()
    return result, time.process_time() - cpu, time.perf_counter() - wall


def peak_gigabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


# ---- embedding ---------------------------------------------------------------------------------------------------


def embed(options: argparse.Namespace) -> None:
    profile = load_profile("laptop", options.overrides)
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        passages = _library(root, profile)
        texts = [each.text for each in islice(passages.passages(), options.passages)]
        passages = _first(passages, options.passages, root)
        fetch_base_model(profile.model, root / "base")
        base = Checkpoint(root / "base", "base_model", "bench")
        with _encoder(base, profile) as bare:
            bare.embed(texts[:64], "passage")
            _, bare_cpu, bare_wall = timed(lambda: bare.embed(texts, "passage"))
            cached = CachedEncoder(bare, EmbeddingCache(root / "cache"))
            print(_rate("bare loop", len(texts), bare_cpu, bare_wall, bare_cpu))
            for known in ("nothing", "all"):
                folder = root / known
                folder.mkdir()
                _, cpu, wall = timed(partial(embed_passages, passages, base, cached, {}, folder, no_progress))
                print(_rate(f"re-index, {known} cached", len(texts), cpu, wall, bare_cpu))
    print(f"peak {peak_gigabytes():.2f} GB")


def _rate(name: str, count: int, cpu: float, wall: float, bare: float) -> str:
    rates = f"{count / cpu:8.1f} passages/cpu-s {count / wall:8.1f} passages/s"
    return f"{name:26} {rates}  {bare / cpu:.1%} of the bare loop"


@contextlib.contextmanager
def _encoder(model: Checkpoint, profile: Profile) -> Iterator[SentenceTransformerEncoder]:
    with SentenceTransformerEncoder(
        model.model, "bench", find_accelerator(), profile.model.encoder_config()
    ) as encoder:
        yield encoder


def _library(root: Path, profile: Profile) -> Passages:
    """The passages of the profile's corpus."""
    for name in ("corpus", "passages"):
        (root / name).mkdir()
    read_corpus(profile.corpus, root / "corpus")
    split_passages(Corpus(root / "corpus", "raw_corpus", "bench"), profile.passages, root / "passages")
    return Passages(root / "passages", "passages", "bench")


def _first(passages: Passages, count: int, root: Path) -> Passages:
    import pyarrow.parquet as pq

    (root / "first").mkdir()
    table = pq.read_table(passages.path / "passages.parquet").slice(0, count)
    pq.write_table(table, root / "first" / "passages.parquet")
    return Passages(root / "first", "passages", "bench")


# ---- search ------------------------------------------------------------------------------------------------------


def search(options: argparse.Namespace) -> None:
    settings = load_profile("laptop", options.overrides).reindex
    rng = np.random.default_rng(1)
    with tempfile.TemporaryDirectory() as scratch:
        index = LanceIndex(Path(scratch))
        schema = index_schema(DIMENSIONS)
        _, cpu, wall = timed(lambda: index.write(_random_rows(options.rows, schema), schema))
        print(
            f"{options.rows:,} rows written with full-text index: {cpu:.1f} cpu-s, {wall:.1f} s", flush=True
        )
        kind, cpu, wall = timed(
            lambda: index.optimise(index_type(settings, options.rows), options.rows, DIMENSIONS)
        )
        print(f"{kind}: {cpu:.1f} cpu-s, {wall:.1f} s", flush=True)
        queries = _unit(rng, SEARCHES)
        index.search(queries[0], K)
        seconds = [timed(lambda query=query: index.search(query, K))[2] for query in queries]
        p50, p99 = np.percentile(seconds, [50, 99]) * 1000
        print(f"search k={K}: p50 {p50:.1f} ms, p99 {p99:.1f} ms; peak {peak_gigabytes():.2f} GB")


def _unit(rng: np.random.Generator, count: int) -> np.ndarray:
    drawn = rng.standard_normal((count, DIMENSIONS), dtype=np.float32)
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def _random_rows(count: int, schema: pa.Schema, block: int = 4096) -> Iterator[pa.RecordBatch]:
    rng = np.random.default_rng(0)
    for start in range(0, count, block):
        numbers = range(start, min(start + block, count))
        texts = [f"passage {number} of many, with a few words of its own" for number in numbers]
        names = pa.array([str(number) for number in numbers])
        columns: dict[str, Any] = {
            **dict.fromkeys(("row_id", "passage_id", "doc_id", "title", "section"), names),
            "text": pa.array(texts),
            "chunk_id": pa.array([1] * len(numbers), pa.int32()),
            "vector": pa.FixedSizeListArray.from_arrays(
                pa.array(_unit(rng, len(numbers)).reshape(-1)), DIMENSIONS
            ),
        }
        yield pa.record_batch([columns[name] for name in schema.names], schema=schema)


# ---- incremental -------------------------------------------------------------------------------------------------


def incremental(options: argparse.Namespace) -> None:
    with (
        tempfile.TemporaryDirectory() as scratch,
        contextlib.chdir(scratch),
        dg.DagsterInstance.local_temp(scratch) as instance,
    ):
        overrides = ["corpus_dir=documents", "artifact_root=output", *options.overrides]
        profile = load_profile("laptop", overrides)
        count = _write_corpus(options.passages, options.cranfield, profile)
        defs = build_definitions(profile)
        bench = Project(defs, instance, profile)
        bench.run("corpus read", ["raw_corpus", "passages"])
        bench.run("base model", ["base_model"])
        base = ArtifactStore(Path("output")).versions("base_model")[0]
        choice = {"promoted_model": {"version": base, "because": "bench"}}
        assert run_assets(defs, instance, ["promoted_model"], choice).succeeded
        full = bench.run(f"full index of {count:,} passages", INDEXED)

        documents = sorted(Path("documents").iterdir())
        part = max(1, len(documents) // 100)
        for path in documents[:: len(documents) // part][:part]:
            path.write_text(path.read_text("utf-8") + "\nThis sentence was added afterwards.\n", "utf-8")
        read = bench.run("1 % changed: corpus read", ["raw_corpus", "passages"])
        again = bench.run("1 % changed: re-index", INDEXED)
        print(
            f"re-index {again / full:.1%} of the full one, with reading the corpus {(read + again) / full:.1%}"
        )

        gone = {path.name for path in documents[1 :: len(documents) // part][:part]}
        with open_searcher(ArtifactStore(Path("output")), profile.model) as searcher:
            asked = (Path("documents") / next(iter(gone))).read_text("utf-8")[:300]
            assert gone & {hit.doc_id for hit in searcher.search(asked, 50).hits}
            for name in gone:
                (Path("documents") / name).unlink()
            bench.run("1 % deleted: corpus read", ["raw_corpus", "passages"])
            bench.run("1 % deleted: re-index", INDEXED)
            searcher.refresh()
            assert not gone & {hit.doc_id for hit in searcher.search(asked, 50).hits}
            described = current_index(ArtifactStore(Path("output"))).describe()
        found = f"none of {len(gone)} deleted documents is found; {described['rows']:,} rows"
        print(f"{found}; peak {peak_gigabytes():.2f} GB")


class Project:
    """Runs of one profile, timed."""

    def __init__(self, defs: dg.Definitions, instance: dg.DagsterInstance, profile: Profile):
        self.defs = defs
        self.instance = instance
        self.profile = profile

    def run(self, name: str, assets: list[str]) -> float:
        """Materialize ``assets``; wall seconds."""
        outcome, cpu, wall = timed(lambda: run_assets(self.defs, self.instance, assets))
        assert outcome.succeeded, outcome.failures
        print(f"{name:34} {cpu:8.1f} cpu-s {wall:8.1f} s", flush=True)
        return wall


def _write_corpus(wanted: int, cranfield: Path | None, profile: Profile) -> int:
    """Documents of ``wanted`` passages or a little more, as files; returns how many passages."""
    Path("documents").mkdir()
    count = 0
    for number, document in enumerate(_documents(cranfield)):
        if count >= wanted:
            break
        passages = list(passages_of(document, profile.passages.sentences_per_chunk))
        # One change in a document of thousands of passages would change too many of them.
        if len(passages) <= 50:
            count += len(passages)
            Path(f"documents/{number:06}.md").write_text(document.text, "utf-8")
    return count


def _documents(cranfield: Path | None) -> Iterator[Document]:
    """The standard library's documents, Cranfield's, and then variants of both."""
    profile = load_profile("laptop")
    with tempfile.TemporaryDirectory() as folder:
        read_corpus(profile.corpus, Path(folder))
        library = list(Corpus(Path(folder), "raw_corpus", "bench").documents())
    others = read_documents(cranfield) if cranfield else []
    found = [
        *library,
        *(Document(each.doc_id, each.title, f"# {each.title}\n\n{each.text}\n") for each in others),
    ]
    yield from found
    for variant in range(2, 1000):
        for each in found:
            text = each.text.replace(". ", f" (as of version {variant}). ")
            yield Document(each.doc_id, each.title, text)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["embed", "search", "incremental"])
    parser.add_argument("cranfield", nargs="?", type=Path, help="a BEIR folder, of `incremental`")
    parser.add_argument("--passages", type=int, help="embedded; 2,000 or, of `incremental`, 20,000")
    parser.add_argument("--rows", type=int, default=10_000, help="of `search`")
    parser.add_argument("--set", dest="overrides", action="append", default=[], help="a setting, key=value")
    options = parser.parse_args()
    options.cranfield = options.cranfield and options.cranfield.absolute()
    options.passages = options.passages or {"embed": 2000, "incremental": 20_000}.get(options.what)
    {"embed": embed, "search": search, "incremental": incremental}[options.what](options)


if __name__ == "__main__":
    main()
