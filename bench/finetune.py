"""How fast fine-tuning is, and what each of its parts gains, on sets that the asset graph has made.

    python bench/finetune.py speed    # pairs per CPU second against sentence-transformers' own scripts
    python bench/finetune.py quality  # the recipe's loss and settings against in-batch and mined negatives

Reads ``stage1_data_prep`` and the base model below ``--root`` (``retune run -c laptop`` makes them). CPU seconds
are of this process, so that they compare on a machine that does other work too.
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

from assets_pkg.finetune.examples import TrainData, read_train_data
from assets_pkg.finetune.train import finetune
from assets_pkg.profile import load_profile
from resources.accelerator import find_accelerator
from storage.artifacts import Checkpoint, MinedTrainSet

PROFILE = load_profile("laptop")
BATCH = 64


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
    settings = PROFILE.finetune.model_copy(update={"headroom_loss": 0.0, "checkpoint_every_steps": 10**6})
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        mined = subset(options.mined, options.pairs, folder)
        data = read_train_data(mined.unrolled, 0)
        base = Checkpoint(options.base, "base_model", "bench")

        def ours() -> None:
            finetune(mined, base, PROFILE.model, settings, find_accelerator("cpu"), folder / "ours")

        (folder / "ours").mkdir()
        scripts = {
            "stock, float32": lambda: stock_script(data, base.model, folder / "a", bf16=False),
            "stock, bfloat16": lambda: stock_script(data, base.model, folder / "b", bf16=True),
            "retune": ours,
        }
        few = replace(data, examples=data.examples[:8])
        stock_script(
            few, base.model, folder / "warm", bf16=True
        )  # imports, so that nobody is charged for them
        rates: dict[str, float] = {}
        for name, script in scripts.items():
            cpu, wall = cpu_seconds(script)
            rates[name] = len(data.examples) / cpu
            print(f"{name:16} {cpu:7.1f} cpu-s {wall:7.1f} s {rates[name]:6.2f} pairs per cpu-s", flush=True)
        for name in list(rates)[:2]:
            print(f"retune / {name}: {rates['retune'] / rates[name]:.2f}")


def quality(options: argparse.Namespace) -> None:
    """Each way on the same rows; nDCG@10 on the exam with the interval of its gain over the base."""
    from assets_pkg.evaluation.compare import compare
    from assets_pkg.evaluation.evaluate import evaluate_retrieval
    from resources.encoders.sentence_transformer import SentenceTransformerEncoder
    from storage.artifacts import EvalSet

    recipe: dict[str, Any] = {
        "in_batch_negatives": False,
        "train_n_passages": 5,
        "learning_rate": 1e-5,
        "temperature": 0.02,
    }
    ways: dict[str, dict[str, Any]] = {
        "recipe: mined only": recipe,
        "mined only": {"in_batch_negatives": False, "train_n_passages": 5},
        "in-batch only": {"train_n_passages": 1},
        "in-batch and mined": {"train_n_passages": 5},
    }
    exam = EvalSet(options.exam, "eval_set", "bench")

    def score(model: Path) -> Any:
        encoder = SentenceTransformerEncoder(
            model,
            model.parent.parent.name,
            query_max_length=PROFILE.model.query_max_length,
            passage_max_length=PROFILE.model.passage_max_length,
            accelerator=find_accelerator("cpu"),
        )
        return evaluate_retrieval(exam, encoder, PROFILE.eval)

    with tempfile.TemporaryDirectory() as temporary:
        mined = subset(options.mined, options.pairs, Path(temporary))
        base = Checkpoint(options.base, "base_model", "bench")
        before = score(base.model)
        for name, changes in ways.items():
            settings = PROFILE.finetune.model_copy(
                update={"headroom_loss": 0.0, "global_batch_size": 32} | changes
            )
            folder = Path(temporary) / name
            folder.mkdir()
            cpu, _ = cpu_seconds(
                lambda s=settings, f=folder: finetune(
                    mined, base, PROFILE.model, s, find_accelerator("cpu"), f
                )
            )
            gain = compare(before, score(folder / "model" / "consolidated"), PROFILE.eval)["NDCG@10"]
            print(
                f"{name:20} nDCG@10 {gain.base:.4f} -> {gain.finetuned:.4f}, {gain.delta:+.4f} "
                f"[{gain.low:+.4f}, {gain.high:+.4f}], {cpu:.0f} cpu-s",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["speed", "quality"])
    parser.add_argument("--root", type=Path, default=Path("output/embed"))
    parser.add_argument("--mined", type=Path, help="folder of a mined training set")
    parser.add_argument("--base", type=Path, help="folder that holds the base's model/consolidated")
    parser.add_argument("--exam", type=Path, help="folder that holds eval_beir")
    parser.add_argument("--pairs", type=int, default=512)
    options = parser.parse_args()
    prep = options.root / "stage1_data_prep"
    options.mined = options.mined or (prep / "train_mined.automodel_unrolled.json").resolve().parent
    options.exam = options.exam or (prep / "eval_beir").resolve().parent
    options.base = options.base or newest(options.root / "artifacts" / "base_model")
    {"speed": speed, "quality": quality}[options.what](options)


def newest(folder: Path) -> Path:
    return max(folder.iterdir(), key=lambda path: path.stat().st_mtime)


if __name__ == "__main__":
    main()
