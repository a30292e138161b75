"""The gain on questions written and judged by people, when training pairs come from the documents alone.

    python bench/quality.py PATH... [key=value ...] [--work FOLDER]

PATH is a BEIR folder with human judgements (corpus.jsonl, queries.jsonl, qrels/test.tsv), such as the Cranfield
collection. Its documents are written out as files, ``retune run -c laptop`` makes questions from them, fine-tunes on
those and chooses a search method on those; then the folder's own questions, which nothing has seen, are answered by the
base model's vectors, the promoted model's vectors, BM25, and the chosen method. With --work the projects are kept in
FOLDER, one for each PATH: what an interrupted or an earlier run made there is used again.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from assets_pkg.config.profile_files import load_profile
from assets_pkg.evaluation.compare import compare
from assets_pkg.reindex.comparison import measure_methods
from assets_pkg.reindex.search_method import CANDIDATES
from assets_pkg.reindex.searcher import checkpoint_encoder
from assets_pkg.retrieval.metrics import RetrievalScores
from assets_pkg.retrieval.search_method import DENSE, SearchMethod
from storage.artifact_store import ArtifactStore
from storage.artifacts import Checkpoint, EvalSet, SearchChoice
from storage.formats.beir import read_documents
from storage.paths import PROMOTED_MODEL

PROFILE = load_profile("laptop")
BM25 = SearchMethod("bm25")
SHOWN = ("NDCG@10", "Recall@10", "Recall@100", "MAP@100")


@dataclass(frozen=True)
class Judged(EvalSet):
    """A BEIR folder of people's own questions."""

    @property
    def beir(self) -> Path:
        return self.path


def write_documents(beir: Path, folder: Path) -> int:
    """Write a Markdown file for each document, with its title as heading; returns how many."""
    folder.mkdir(exist_ok=True)
    count = 0
    for each in read_documents(beir):
        name = "".join(sign if sign.isalnum() else "_" for sign in each.doc_id)
        title = " ".join(each.title.split()).rstrip(" .")
        (folder / f"{name}.md").write_text(f"# {title}\n\n{each.text}\n" if title else each.text, "utf-8")
        count += 1
    return count


def run(work: Path, overrides: list[str]) -> ArtifactStore:
    """Run the laptop profile on the documents in ``work``: from the corpus to the promoted model and its search."""
    command = [sys.executable, "-m", "assets_pkg.cli", "run", "-c", "laptop"]
    paths = ["corpus_dir=documents", "artifact_root=output"]
    environment = {**os.environ, "DAGSTER_HOME": str(work / "dagster")}
    (work / "dagster").mkdir(exist_ok=True)
    subprocess.run([*command, "--to", "eval", *paths, *overrides], cwd=work, env=environment, check=True)
    subprocess.run(
        [*command, "--from", "reindex", "--to", "reindex", *paths, *overrides],
        cwd=work,
        env=environment,
        check=True,
    )
    return ArtifactStore(work / "output")


def rows(judged: EvalSet, store: ArtifactStore) -> Iterator[tuple[str, RetrievalScores]]:
    """What is compared, by name: the first is the base model's dense search."""
    base = store.get(Checkpoint, "base_model", store.versions("base_model")[0])
    version = store.resolve(PROMOTED_MODEL)
    assert version is not None
    promoted = next(
        store.get(Checkpoint, asset, version.name)
        for asset in ("checkpoint", "base_model")
        if store.has(asset, version.name)
    )
    chosen = store.get(SearchChoice, "search_method", store.versions("search_method")[0]).describe()
    method = SearchMethod.parse(chosen["method"])
    with checkpoint_encoder(store, PROFILE.model, base) as encoder:
        found = measure_methods(judged, encoder, CANDIDATES)
    yield "base, dense", found[DENSE]
    yield "bm25", found[BM25]
    tuned = store.get(Checkpoint, "checkpoint", store.versions("checkpoint")[0])
    with checkpoint_encoder(store, PROFILE.model, tuned) as encoder:
        yield "fine-tuned, dense", measure_methods(judged, encoder, [DENSE])[DENSE]
    with checkpoint_encoder(store, PROFILE.model, promoted) as encoder:
        name = "fine-tuned" if promoted.version == tuned.version else "base"
        yield f"chosen: {name}, {method}", measure_methods(judged, encoder, [method])[method]


def show(name: str, before: RetrievalScores, after: RetrievalScores) -> None:
    for metric, row in compare(before, after, PROFILE.eval).items():
        if metric in SHOWN:
            print(
                f"  {name:28} {metric:10} {row.base:.4f} -> {row.finetuned:.4f} {row.delta:+.4f} "
                f"[{row.low:+.4f}, {row.high:+.4f}] p {row.p_value:.3f}, {row.wins} won, {row.losses} lost"
            )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("arguments", nargs="+", metavar="PATH or key=value")
    parser.add_argument("--work", type=Path, metavar="FOLDER")
    options = parser.parse_args()
    given: list[str] = options.arguments
    overrides = [text for text in given if "=" in text]
    for path in map(Path, (text for text in given if "=" not in text)):
        started = time.monotonic()
        with tempfile.TemporaryDirectory() as temporary:
            work = (options.work or Path(temporary)).absolute() / path.name
            work.mkdir(parents=True, exist_ok=True)
            print(f"{path.name}: {write_documents(path, work / 'documents')} documents", flush=True)
            store = run(work, overrides)
            judged = Judged(path.resolve(), "eval_set", "judged")
            measured = list(rows(judged, store))
        (_, base), *others = measured
        print(
            f"{path.name}: {len(base.query_ids)} questions, {(time.monotonic() - started) / 60:.1f} minutes"
        )
        for name, scores in others:
            show(name, base, scores)


if __name__ == "__main__":
    main()
