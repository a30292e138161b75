"""Speed of fine-tuning, and the gain by each kind of negative, on training and eval sets of the asset graph.

    python bench/finetune.py speed    # against sentence-transformers' own scripts, alternating: about 5 minutes
    python bench/finetune.py quality  # mined negatives, in-batch negatives, both: about 7 minutes

Reads ``stage1_data_prep`` and the base model below ``--root`` (``retune run -c laptop --to prep`` makes them). CPU
seconds are of this process, so that they can be compared on a machine with other load. ``--small`` is a quick trial.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np

from assets_pkg.config.profile_files import load_profile
from assets_pkg.config.sections.finetune import FinetuneSettings
from assets_pkg.evaluation.compare import Difference, compare
from assets_pkg.evaluation.evaluate import evaluate_retrieval
from assets_pkg.finetune.data import TrainData, read_train_data
from assets_pkg.finetune.train import finetune
from assets_pkg.retrieval.metrics import RetrievalScores
from resources.encoders.encoder_config import EncoderConfig
from resources.encoders.sentence_transformer import SentenceTransformerEncoder
from resources.machine.accelerator import find_accelerator
from storage.artifacts import Checkpoint, EvalSet, MinedTrainSet
from storage.formats.beir import read_documents, read_qrels, read_queries, write_beir

PROFILE = load_profile(
    "laptop",
    ["finetune.method=full", "teacher=null", "merge_with_base=false", "learning_rate=1e-4", "num_epochs=1"],
)
BATCH = 64
STOCK = "stock, float32"


def subset(mined: Path, pairs: int, folder: Path) -> MinedTrainSet:
    """The first ``pairs`` training rows (of a fixed random order), without validation questions."""
    content = json.loads((mined / "train_mined.automodel_unrolled.json").read_text())
    order = np.random.default_rng(0).permutation(len(content["data"]))[:pairs]
    content["data"] = [content["data"][row] for row in order]
    content["corpus"]["path"] = str((mined / "corpus").resolve())
    (folder / "train_mined.automodel_unrolled.json").write_text(json.dumps(content))
    return MinedTrainSet(folder, "mined_train_set", "bench")


def cpu_seconds(work: Callable[[], object]) -> tuple[float, float]:
    cpu, wall = time.process_time(), time.perf_counter()
    work()
    return time.process_time() - cpu, time.perf_counter() - wall


def stock_script(data: TrainData, base: Path, folder: Path, bf16: bool) -> None:
    """sentence-transformers' documented training script, with the same batch and rate."""
    from datasets import Dataset
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    model = SentenceTransformer(str(base), device="cpu")
    pairs = {
        "anchor": [example.question for example in data.examples],
        "positive": [data.passages[example.positive] for example in data.examples],
    }
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(folder),
        num_train_epochs=1,
        per_device_train_batch_size=BATCH,
        learning_rate=PROFILE.finetune.learning_rate,
        bf16=bf16,
        use_cpu=True,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    loss = MultipleNegativesRankingLoss(model, scale=1 / PROFILE.finetune.temperature)
    SentenceTransformerTrainer(
        model=model, args=arguments, train_dataset=Dataset.from_dict(pairs), loss=loss
    ).train()


def speed(options: argparse.Namespace) -> None:
    """All scripts alternate for ``--rounds`` rounds, so that other load on the machine affects all of them."""
    pairs = options.pairs or (64 if options.small else 512)
    alone = {"headroom_loss": 0.0, "checkpoint_every_steps": 10**6}
    whole = PROFILE.finetune.model_copy(update={**alone, "local_batch_size": BATCH})
    halves = PROFILE.finetune.model_copy(update={**alone, "local_batch_size": BATCH // 2})
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        mined = subset(options.mined, pairs, folder)
        data = read_train_data(mined.unrolled, 0)
        base = Checkpoint(options.base, "base_model", "bench")
        device = find_accelerator("cpu", check_memory=False)  # else half batches are whole ones, if they fit

        def ours(settings: FinetuneSettings) -> None:
            with tempfile.TemporaryDirectory(dir=folder) as own:
                finetune(mined, base, PROFILE.model, settings, device, Path(own))

        def stock(rows: TrainData, *, bf16: bool) -> None:
            stock_script(rows, base.model, folder / "stock", bf16=bf16)

        scripts: dict[str, Callable[[], None]] = {STOCK: lambda: stock(data, bf16=False)}
        if device.bf16:  # without its instructions it takes twenty times as long
            scripts["stock, bfloat16"] = lambda: stock(data, bf16=True)
        scripts |= {"retune": lambda: ours(whole), "retune, half batches": lambda: ours(halves)}
        stock(replace(data, examples=data.examples[:8]), bf16=False)  # imports, outside the measurement
        taken: dict[str, list[tuple[float, float]]] = {name: [] for name in scripts}
        for number in range(1, options.rounds + 1):
            for name, script in scripts.items():
                taken[name].append(cpu_seconds(script))
                cpu, wall = taken[name][-1]
                print(f"round {number}: {name:22} {cpu:7.1f} cpu-s {wall:7.1f} s", flush=True)
        _show_speed(pairs, taken)


def _show_speed(pairs: int, taken: dict[str, list[tuple[float, float]]]) -> None:
    """Medians over the rounds, as a Markdown table."""
    medians = {name: np.median(times, axis=0) for name, times in taken.items()}
    stocks = [name for name in medians if name.startswith("stock")]
    heads = ("script", "pairs per cpu-s", "pairs per s", *(f"times {name}: cpu, wall" for name in stocks))
    print(f"\n| {' | '.join(heads)} |\n{'|---' * len(heads)}|")
    for name, median in medians.items():
        times = (medians[stock] / median for stock in stocks)
        ratios = " | ".join(f"{cpu:.2f}, {wall:.2f}" for cpu, wall in times)
        print(f"| {name} | {pairs / median[0]:.2f} | {pairs / median[1]:.2f} | {ratios} |")


RECIPE = {"in_batch_negatives": False, "train_n_passages": 5, "learning_rate": 1e-5, "temperature": 0.02}
BOTH = "in-batch and mined"
VARIANTS: dict[str, dict[str, Any]] = {
    "recipe: mined only": RECIPE,
    "mined only": {"in_batch_negatives": False, "train_n_passages": 5},
    "in-batch only": {"train_n_passages": 1},
    BOTH: {"train_n_passages": 5},
}
"""The recipe with its own learning rate and temperature; the others with those of the laptop profile."""


def quality(options: argparse.Namespace) -> None:
    """Every variant on the same rows and steps; nDCG@10 on the eval set, with paired intervals."""
    pairs = options.pairs or (96 if options.small else 512)
    base = Checkpoint(options.base, "base_model", "bench")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        eval_set = EvalSet(options.eval_set, "eval_set", "bench")
        if options.small:
            eval_set = small_eval_set(eval_set, folder / "eval_set")
        mined = subset(options.mined, pairs, folder)
        scores = {"base": measure(eval_set, base.model)}
        cost: dict[str, float] = {}
        for name, changes in VARIANTS.items():
            fixed = {"headroom_loss": 0.0, "global_batch_size": 32, "local_batch_size": 32}
            settings = PROFILE.finetune.model_copy(update={**fixed, **changes})
            own = folder / name
            own.mkdir()

            def train(own: Path = own, settings: FinetuneSettings = settings) -> None:
                finetune(mined, base, PROFILE.model, settings, find_accelerator("cpu"), own)

            cost[name], wall = cpu_seconds(train)
            scores[name] = measure(eval_set, own / "model" / "consolidated")
            print(f"{name}: trained in {cost[name]:.0f} cpu-s, {wall:.0f} s", flush=True)
    print(f"\n{pairs} pairs, {len(scores['base'].query_ids)} queries")
    print("\n| trained with | nDCG@10 | over the base | cpu-s |\n|---|---|---|---|")
    for name in VARIANTS:
        gain = _gain(scores["base"], scores[name])
        print(f"| {name} | {gain.base:.4f} -> {gain.finetuned:.4f} | {_text(gain)} | {cost[name]:.0f} |")
    print(f"\n| {BOTH}, against | difference in nDCG@10 |\n|---|---|")
    for name in (each for each in VARIANTS if each != BOTH):
        print(f"| {name} | {_text(_gain(scores[name], scores[BOTH]))} |")


def measure(eval_set: EvalSet, model: Path) -> RetrievalScores:
    encoder = SentenceTransformerEncoder(
        model,
        model.parent.parent.name,
        find_accelerator("cpu"),
        EncoderConfig("", "", PROFILE.model.query_max_length, PROFILE.model.passage_max_length),
    )
    return evaluate_retrieval(eval_set, encoder, PROFILE.eval)


def small_eval_set(eval_set: EvalSet, folder: Path, queries: int = 80, others: int = 300) -> EvalSet:
    """The first queries, their answers, and some other documents."""
    qrels = dict(list(read_qrels(eval_set.beir).items())[:queries])
    answers = {doc_id for judged in qrels.values() for doc_id in judged}
    documents = list(read_documents(eval_set.beir))
    filler = {each.doc_id for each in documents[:: max(1, len(documents) // others)]}
    kept = [each for each in documents if each.doc_id in answers | filler]
    write_beir(
        folder / "eval_beir",
        kept,
        [each for each in read_queries(eval_set.beir) if each.query_id in qrels],
        qrels,
    )
    return EvalSet(folder, "eval_set", "small")


def _gain(one: RetrievalScores, other: RetrievalScores) -> Difference:
    return compare(one, other, PROFILE.eval)["NDCG@10"]


def _text(gain: Difference) -> str:
    return f"{gain.delta:+.4f} [{gain.low:+.4f}, {gain.high:+.4f}], p {gain.p_value:.4f}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["speed", "quality"])
    parser.add_argument("--root", type=Path, default=Path("output/embed"))
    parser.add_argument("--mined", type=Path, help="folder of a mined training set")
    parser.add_argument("--base", type=Path, help="folder that holds the base's model/consolidated")
    parser.add_argument("--eval-set", type=Path, help="folder that holds eval_beir")
    parser.add_argument("--pairs", type=int, help="how many training rows (512)")
    parser.add_argument("--rounds", type=int, default=2, help="how often speed runs every script")
    parser.add_argument("--small", action="store_true", help="few pairs, a small eval set: does it run?")
    options = parser.parse_args()
    prep = options.root / "stage1_data_prep"
    options.mined = options.mined or (prep / "train_mined.automodel_unrolled.json").resolve().parent
    options.eval_set = options.eval_set or (prep / "eval_beir").resolve().parent
    options.base = options.base or newest(options.root / "artifacts" / "base_model")
    {"speed": speed, "quality": quality}[options.what](options)


def newest(folder: Path) -> Path:
    return max(folder.iterdir(), key=lambda path: path.stat().st_mtime)


if __name__ == "__main__":
    main()
