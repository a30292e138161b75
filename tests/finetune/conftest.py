"""A tiny BERT and a tiny mined training set, both made here."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from assets_pkg.config.base import ModelSettings
from assets_pkg.config.profile_files import load_profile
from assets_pkg.config.sections.finetune import FinetuneSettings
from resources.machine.accelerator import Accelerator
from storage.artifacts import Checkpoint, MinedTrainSet
from storage.digests import digest_file, passage_id
from storage.progress import Note, Progress, no_note, no_progress

WORDS = [
    a + b
    for a in ("ba", "ke", "li", "mo", "nu", "ra", "so", "te")
    for b in ("din", "fel", "gor", "hat", "jum")
]
CPU = Accelerator("cpu", "test", bf16=False, memory_bytes=0)


def make_tokenizer(folder: Path, limit: int = 32) -> None:
    """A WordPiece tokenizer of the tiny vocabulary."""
    from transformers import BertTokenizerFast

    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, "query", "passage", ":"]
    tokenizer = BertTokenizerFast(vocab={word: number for number, word in enumerate(vocabulary)})
    tokenizer.model_max_length = limit
    tokenizer.save_pretrained(folder)


@pytest.fixture(scope="session")
def plain_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plain transformers folder: no modules.json, no pooling, no prompts."""
    import torch
    from transformers import BertConfig, BertModel

    folder = tmp_path_factory.mktemp("plain_bert")
    make_tokenizer(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(WORDS) + 8,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=32,
    )
    BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def model_settings(plain_bert: Path) -> ModelSettings:
    return load_profile(
        "laptop",
        [
            f"base_model={plain_bert}",
            "query_prefix='query: '",
            "passage_prefix='passage: '",
            "query_max_length=16",
            "passage_max_length=24",
        ],
    ).model


@pytest.fixture(scope="session")
def base(model_settings: ModelSettings, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    from assets_pkg.finetune.base_model import fetch_base_model

    folder = tmp_path_factory.mktemp("base")
    fetch_base_model(model_settings, folder)
    return Checkpoint(folder, "base_model", "base0")


@pytest.fixture
def settings() -> Callable[..., FinetuneSettings]:
    """Finetune settings of a short run, with changes."""

    def make(**changes: Any) -> FinetuneSettings:
        short = {
            "method": "full",
            "teacher": None,
            "merge_with_base": False,
            "dropout": 0.0,
            "temperature": 0.05,
            "num_epochs": 2,
            "global_batch_size": 12,
            "local_batch_size": 12,
            "learning_rate": 3e-3,
            "train_n_passages": 3,
            "checkpoint_every_steps": 3,
            "headroom_ndcg": 1.0,
            "precision": "fp32",
        }
        profile = load_profile("laptop", ["hard_negatives_to_mine=5"])
        return profile.finetune.model_copy(update=short | changes)

    return make


def write_set(folder: Path, questions: int, validation: int) -> None:
    """Passages of random words; a question is some words of its passage; every third has two passages."""
    rng = random.Random(0)
    texts = [" ".join(rng.choices(WORDS, k=rng.randint(4, 18))) for _ in range(2 * questions + validation)]
    ids = [passage_id(text) for text in texts]
    (folder / "corpus").mkdir(parents=True)
    pq.write_table(pa.table({"id": ids, "text": texts}), folder / "corpus" / "train.parquet")

    def row(name: str, question: str, positive: int, negatives: list[int]) -> dict[str, Any]:
        return {
            "question_id": name,
            "question": question,
            "corpus_id": "test",
            "pos_doc": [{"id": ids[positive], "score": 1.0}],
            "neg_doc": [{"id": ids[number], "score": 0.5} for number in negatives],
        }

    rows: list[dict[str, Any]] = []
    for number in range(questions):
        words = texts[number].split()
        question = " ".join(rng.sample(words, k=min(4, len(words))))
        positives = [number, number + questions] if number % 3 == 0 else [number]
        wrong = [n for n in rng.sample(range(2 * questions), k=6) if n not in positives]
        for index, positive in enumerate(positives):
            name = f"q{number}" if len(positives) == 1 else f"q{number}_{index}"
            rows.append(row(name, question, positive, wrong[:4]))
    held_out = [
        row(f"v{n}", " ".join(texts[2 * questions + n].split()[:3]), 2 * questions + n, [])
        for n in range(validation)
    ]
    for name, data in (("train_mined.automodel_unrolled.json", rows), ("val.json", held_out)):
        content = {"corpus": {"path": "./corpus/"}, "mining": {"args": {}}, "data": data}
        (folder / name).write_text(json.dumps(content))


@pytest.fixture(scope="session")
def mined(tmp_path_factory: pytest.TempPathFactory) -> MinedTrainSet:
    folder = tmp_path_factory.mktemp("mined")
    write_set(folder, questions=36, validation=8)
    return MinedTrainSet(folder, "mined_train_set", "mined0")


@dataclass(frozen=True)
class TrainingInputs:
    """The inputs of a training run; ``settings`` makes those of a short run, with changes."""

    mined: MinedTrainSet
    base: Checkpoint
    model: ModelSettings
    settings: Callable[..., FinetuneSettings]

    def finetune(
        self,
        folder: Path,
        progress: Progress = no_progress,
        note: Note = no_note,
        accelerator: Accelerator = CPU,
        **changes: Any,
    ) -> Path:
        """Fine-tune into ``folder`` in this process."""
        from assets_pkg.finetune.train import finetune

        folder.mkdir(exist_ok=True)
        settings = self.settings(**changes)
        finetune(self.mined, self.base, self.model, settings, accelerator, folder, progress, note)
        return folder

    def arguments(self, **changes: Any) -> list[str]:
        """The inputs as arguments of another process: folders, and settings as JSON."""
        settings = self.settings(**changes)
        paths = [str(self.mined.path), str(self.base.path)]
        return [*paths, self.model.model_dump_json(), settings.model_dump_json()]


@pytest.fixture
def inputs(
    mined: MinedTrainSet,
    base: Checkpoint,
    model_settings: ModelSettings,
    settings: Callable[..., FinetuneSettings],
) -> TrainingInputs:
    return TrainingInputs(mined, base, model_settings, settings)


def content_of(folder: Path) -> dict[str, str]:
    """Digests of the files that decide a checkpoint's version."""
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    return {name: digest_file(folder / name) for name in sorted(names) if Checkpoint.is_content(name)}


def save_decoder(config: Any, model: Any, folder: Path, **changes: Any) -> None:
    """A tiny random model of these transformers classes, with its tokenizer."""
    import torch

    make_tokenizer(folder)
    torch.manual_seed(0)
    sizes = {
        "vocab_size": 60,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 64,
        "max_position_embeddings": 64,
        "pad_token_id": 0,
    }
    model(config(**(sizes | changes))).save_pretrained(folder)


def llama(folder: Path, **changes: Any) -> None:
    """A tiny random Llama, its configuration changed after saving."""
    from transformers import LlamaConfig, LlamaModel

    save_decoder(LlamaConfig, LlamaModel, folder)
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def first_token_sees_the_last(folder: Path) -> bool:
    """Whether the first token's state depends on what comes after it."""
    import torch

    from assets_pkg.finetune.model_io import load_model

    model: Any = load_model(folder, "cpu")[0]
    with torch.no_grad():
        one, other = (
            model.model(input_ids=torch.tensor([[2, 9, last]])).last_hidden_state[0, 0] for last in (10, 11)
        )
    return not torch.allclose(one, other)


def steps_into(seen: list[int]) -> Progress:
    """Keeps the numbers of the steps, and not what validation reports."""

    def progress(done: int, total: int, unit: str, **figures: float) -> None:
        if unit == "steps":
            seen.append(done)

    return progress
