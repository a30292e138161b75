"""What Retune gains for queries that people wrote and judged, when it learns from the documents alone.

    python bench/cranfield.py PATH [key=value ...]

PATH is a BEIR folder with human judgements (corpus.jsonl, queries.jsonl, qrels/test.tsv), such as the Cranfield
collection. Its documents are written out as files, ``retune run -c laptop`` makes questions from them and
fine-tunes on those, and base and tuned model are measured on the folder's own queries, which training never saw.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from assets_pkg.config.profile import load_profile
from assets_pkg.evaluation.compare import compare
from assets_pkg.evaluation.evaluate import evaluate_retrieval
from assets_pkg.retrieval.metrics import RetrievalScores
from resources.encoders.encoder_config import EncoderConfig
from resources.encoders.sentence_transformer import SentenceTransformerEncoder
from resources.machine.accelerator import find_accelerator
from storage.artifact_store import ArtifactStore
from storage.artifacts import Checkpoint, EvalSet
from storage.formats.beir import read_documents

PROFILE = load_profile("laptop")
SHOWN = ("NDCG@10", "Recall@10", "Recall@100", "MAP@100", "MRR@10")


def write_documents(beir: Path, folder: Path) -> int:
    """One Markdown file a document, its title as the heading; returns how many."""
    folder.mkdir()
    count = 0
    for each in read_documents(beir):
        name = "".join(sign if sign.isalnum() else "_" for sign in each.doc_id)
        title = " ".join(each.title.split()).rstrip(" .")
        (folder / f"{name}.md").write_text(f"# {title}\n\n{each.text}\n" if title else each.text, "utf-8")
        count += 1
    return count


def run(work: Path, overrides: list[str]) -> ArtifactStore:
    """The laptop profile on the documents in ``work``, from corpus to checkpoint."""
    command = [sys.executable, "-m", "assets_pkg.cli", "run", "-c", "laptop", "--to", "finetune"]
    places = ["corpus_dir=documents", "artifact_root=output"]
    environment = {**os.environ, "DAGSTER_HOME": str(work / "dagster")}
    (work / "dagster").mkdir()
    subprocess.run([*command, *places, *overrides], cwd=work, env=environment, check=True)
    return ArtifactStore(work / "output")


def measure(eval_set: EvalSet, model: Checkpoint) -> RetrievalScores:
    encoder = SentenceTransformerEncoder(
        model.model,
        model.version,
        find_accelerator(),
        EncoderConfig("", "", PROFILE.model.query_max_length, PROFILE.model.passage_max_length),
    )
    return evaluate_retrieval(eval_set, encoder, PROFILE.eval)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("beir", type=Path)
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        # The eval set is an artifact's folder, which holds the BEIR folder by the name eval_beir.
        (work / "eval_beir").symlink_to(options.beir.resolve())
        eval_set = EvalSet(work, "eval_set", "judged")
        print(f"{write_documents(options.beir, work / 'documents')} documents", flush=True)
        store = run(work, options.overrides)
        models = [
            store.get(Checkpoint, asset, store.versions(asset)[0]) for asset in ("base_model", "checkpoint")
        ]
        told = models[1].summary()
        print(f"trained: {told['trained']} {told.get('reason', '')}, {told['plan']['examples']} pairs")
        base, tuned = (measure(eval_set, model) for model in models)
        for name, row in compare(base, tuned, PROFILE.eval).items():
            if name in SHOWN:
                print(
                    f"{name:10} {row.base:.4f} -> {row.finetuned:.4f} {row.delta:+.4f} "
                    f"[{row.low:+.4f}, {row.high:+.4f}] p {row.p_value:.3f}, "
                    f"{row.wins} won, {row.losses} lost of {len(base.query_ids)}"
                )


if __name__ == "__main__":
    main()
