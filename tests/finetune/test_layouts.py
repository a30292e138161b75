"""Base models in every layout that sentence-transformers loads: what training saves is what it trained."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from assets_pkg.finetune import train
from assets_pkg.finetune.adapter import train_adapter
from assets_pkg.finetune.base_model import fetch_base_model
from assets_pkg.finetune.errors import SavedModelError
from assets_pkg.finetune.model_io import load_model
from assets_pkg.finetune.saved_model import check_saved
from resources.encoders.sentence_transformer import SentenceTransformerEncoder
from resources.encoders.token_counter import token_counter
from storage.artifacts import Checkpoint
from tests.finetune.conftest import CPU, TrainingInputs

pytestmark = pytest.mark.slow

Make = Callable[[Path, Path], None]
TEXTS = ["badin kefel ligor", "mohat nujum", "radin"]


def sentence_model(plain: Path, folder: Path, *extra: Any) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

    modules = [Transformer(str(plain)), Pooling(32, "mean"), *extra, Normalize()]
    SentenceTransformer(modules=modules, device="cpu").save_pretrained(str(folder))


def dense() -> Any:
    import torch
    from sentence_transformers.sentence_transformer.modules import Dense

    torch.manual_seed(1)
    return Dense(32, 24)


def move_module(folder: Path, number: int, name: str) -> None:
    path = folder / "modules.json"
    modules = json.loads(path.read_text())
    modules[number]["path"] = name
    path.write_text(json.dumps(modules))


def newer_layout(plain: Path, folder: Path) -> None:
    sentence_model(plain, folder)


def older_layout(plain: Path, folder: Path) -> None:
    """As sentence-transformers 0.x and 1.x saved: the transformer, with its tokenizer, in a folder of its own."""
    sentence_model(plain, folder)
    inner = folder / "0_Transformer"
    inner.mkdir()
    own = ("modules.json", "config_sentence_transformers.json", "README.md")
    for path in [each for each in folder.iterdir() if each.is_file() and each.name not in own]:
        path.rename(inner / path.name)
    move_module(folder, 0, "0_Transformer")


def older_layout_of_roberta(plain: Path, folder: Path) -> None:
    older_layout(plain, folder)
    inner = folder / "0_Transformer"
    (inner / "sentence_bert_config.json").rename(inner / "sentence_roberta_config.json")


def dense_named_otherwise(plain: Path, folder: Path) -> None:
    sentence_model(plain, folder, dense())
    (folder / "2_Dense").rename(folder / "2_Dense_24")
    move_module(folder, 2, "2_Dense_24")


def stray_dense(plain: Path, folder: Path) -> None:
    dense_named_otherwise(plain, folder)
    shutil.copytree(folder / "2_Dense_24", folder / "2_Dense")


def dense_in_bin(plain: Path, folder: Path) -> None:
    import torch
    from safetensors.torch import load_file

    sentence_model(plain, folder, dense())
    weights = folder / "2_Dense" / "model.safetensors"
    torch.save(load_file(weights), weights.with_name("pytorch_model.bin"))
    weights.unlink()


def all_in_bin(plain: Path, folder: Path) -> None:
    import torch
    from safetensors.torch import load_file

    dense_in_bin(plain, folder)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


LAYOUTS: list[Make] = [
    newer_layout,
    older_layout,
    older_layout_of_roberta,
    dense_named_otherwise,
    stray_dense,
    dense_in_bin,
    all_in_bin,
]


OTHER_METHODS: list[dict[str, Any]] = [{"lora_rank": 2}, {"merge_with_base": True}]


def inputs_with(make: Make, plain: Path, folder: Path, inputs: TrainingInputs) -> TrainingInputs:
    make(plain, folder / "source")
    model = inputs.model.model_copy(update={"base_model": str(folder / "source")})
    fetch_base_model(model, folder / "base")
    return replace(inputs, base=Checkpoint(folder / "base", "base_model", "b"), model=model)


def vectors(folder: Path) -> Any:
    return load_model(folder, "cpu").encode_query(TEXTS, normalize_embeddings=True)


@pytest.mark.parametrize("make", LAYOUTS)
def test_a_base_gives_the_vectors_of_its_source(
    make: Make, plain_bert: Path, inputs: TrainingInputs, tmp_path: Path
) -> None:
    own = inputs_with(make, plain_bert, tmp_path, inputs)
    texts = [f"query: {text}" for text in TEXTS]
    expected = load_model(tmp_path / "source", "cpu").encode(texts, normalize_embeddings=True)
    assert vectors(own.base.model) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("make", "changes"),
    [(make, {}) for make in LAYOUTS]
    + [(make, changes) for make in (older_layout, stray_dense, all_in_bin) for changes in OTHER_METHODS],
)
def test_the_saved_model_is_the_trained_one(
    make: Make,
    changes: dict[str, Any],
    plain_bert: Path,
    inputs: TrainingInputs,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kept: list[Any] = []

    def check(model: Any, *args: Any, **options: Any) -> None:
        kept.append(model.encode_query(TEXTS, normalize_embeddings=True))
        check_saved(model, *args, **options)

    monkeypatch.setattr(train, "check_saved", check)
    own = inputs_with(make, plain_bert, tmp_path, inputs)
    own.finetune(tmp_path / "tuned", **changes)
    tuned = Checkpoint(tmp_path / "tuned", "checkpoint", "t")
    after = vectors(tuned.model)
    if kept:
        assert after == pytest.approx(kept[0], abs=1e-5)
        assert np.abs(after - vectors(own.base.model)).max() > 1e-3
    else:
        assert tuned.summary()["merge_weight"] == 0
        assert (after == vectors(own.base.model)).all()


@pytest.mark.parametrize("make", LAYOUTS)
def test_an_adapter_of_every_layout_changes_its_vectors(
    make: Make, plain_bert: Path, inputs: TrainingInputs, tmp_path: Path
) -> None:
    own = inputs_with(make, plain_bert, tmp_path, inputs)
    encoder = SentenceTransformerEncoder(own.base.model, "b", CPU, own.model.encoder_config())
    settings = own.settings(method="adapter", learning_rate=1e-2)
    train_adapter(own.mined, own.base, own.model, settings, encoder, tmp_path / "adapter")
    adapted = vectors(tmp_path / "adapter" / "model" / "consolidated")
    assert np.abs(adapted - vectors(own.base.model)).max() > 1e-3


def test_a_model_that_is_not_the_trained_one_ends_the_step(
    inputs: TrainingInputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lose(model: Any, base: Path, target: Path, work: Path) -> None:
        shutil.copytree(base, target)

    monkeypatch.setattr(train, "save_consolidated", lose)
    with pytest.raises(
        SavedModelError, match=r"consolidated: \d+ of \d+ trained weights are not in the saved"
    ):
        inputs.finetune(tmp_path / "tuned")
    assert not (tmp_path / "tuned" / "summary.json").exists()


def test_the_tokenizer_is_found_in_the_folder_of_the_transformer(
    plain_bert: Path, inputs: TrainingInputs, tmp_path: Path
) -> None:
    own = inputs_with(older_layout, plain_bert, tmp_path, inputs)
    assert token_counter(own.base.model, "query: ")(["badin kefel"]) == [6]  # with [CLS], query, : and [SEP]


@pytest.mark.parametrize("make", [dense_named_otherwise, dense_in_bin, all_in_bin])
def test_a_download_has_the_weights_of_every_module_once(
    make: Make, plain_bert: Path, inputs: TrainingInputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub
    from huggingface_hub.utils import filter_repo_objects

    make(plain_bert, tmp_path / "remote")
    if not (tmp_path / "remote" / "pytorch_model.bin").exists():
        (tmp_path / "remote" / "pytorch_model.bin").write_bytes(b"another format of the same weights")
    names = [str(path.relative_to(tmp_path / "remote")) for path in (tmp_path / "remote").rglob("*.*")]
    snapshot = tmp_path / "snapshots" / "abc123"

    def download(name: str, revision: str | None, ignore_patterns: list[str]) -> str:
        for wanted in filter_repo_objects(names, ignore_patterns=ignore_patterns):
            (snapshot / wanted).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(tmp_path / "remote" / wanted, snapshot / wanted)
        return str(snapshot)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    fetch_base_model(inputs.model.model_copy(update={"base_model": "owner/name"}), tmp_path / "base")
    made = tmp_path / "base" / "model" / "consolidated"
    weights = [path for path in snapshot.rglob("*") if path.suffix in (".bin", ".safetensors")]
    assert len({path.parent for path in weights}) == len(weights) == 2
    assert vectors(made).shape == (3, 24)


def test_what_a_trainer_left_is_not_part_of_the_model(
    plain_bert: Path, inputs: TrainingInputs, tmp_path: Path
) -> None:
    def with_checkpoints(plain: Path, folder: Path) -> None:
        sentence_model(plain, folder)
        shutil.copytree(folder, tmp_path / "copy")
        (tmp_path / "copy").rename(folder / "checkpoint-500")
        (folder / "optimizer.pt").write_bytes(b"x")
        (folder / "training_args.bin").write_bytes(b"x")

    own = inputs_with(with_checkpoints, plain_bert, tmp_path, inputs)
    weights = {
        path.name for path in own.base.model.rglob("*") if path.suffix in (".safetensors", ".pt", ".bin")
    }
    assert weights == {"model.safetensors"}
    assert not list(own.base.model.glob("checkpoint-*"))


def test_training_that_is_lost_in_rounding_ends_the_step(base: Checkpoint, tmp_path: Path) -> None:
    shutil.copytree(base.model, tmp_path / "saved")
    model = load_model(base.model, "cpu")
    check_saved(model, base.model, tmp_path / "saved", learned=False)
    with pytest.raises(SavedModelError, match="gives the base's vectors"):
        check_saved(model, base.model, tmp_path / "saved", learned=True)
