"""ONNX folders in the hub's usual layout as encoders: sentence-transformers' own vectors."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resources.encoders.conformance import truth_checks
from resources.encoders.factory import look_up, open_encoder
from resources.encoders.sentence_transformer import EncoderError
from resources.machine.accelerator import Accelerator
from resources.models.entry import ModelEntry
from resources.models.registry import Registry

TEXTS = ["dark blue sea", "red", "a person walks through a gate and a dog runs over the hill again and again"]
FACTS = {"adapter": "onnx", "folder": "model", "dtype": "fp32"}


@pytest.fixture(scope="module")
def exported(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As models lie on the hub: sentence-transformers' files, and the network's token states in ``onnx/model.onnx``."""
    import torch
    from sentence_transformers import SentenceTransformer

    folder = tmp_path_factory.mktemp("embedding_models") / "model"
    shutil.copytree(tiny_model, folder)
    (folder / "onnx").mkdir()
    network: Any = SentenceTransformer(
        str(tiny_model), device="cpu", model_kwargs={"attn_implementation": "eager"}
    )[0]

    class States(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network.auto_model.eval()

        def forward(self, input_ids: Any, attention_mask: Any, token_type_ids: Any) -> Any:
            return self.network(input_ids, attention_mask, token_type_ids).last_hidden_state

    names = ["input_ids", "attention_mask", "token_type_ids"]
    ids = torch.ones((2, 7), dtype=torch.int64)
    torch.onnx.export(
        States(),
        (ids, ids, ids * 0),
        str(folder / "onnx" / "model.onnx"),
        input_names=names,
        output_names=["last_hidden_state"],
        dynamic_axes={name: {0: "n", 1: "t"} for name in [*names, "last_hidden_state"]},
        dynamo=False,
    )
    for path in folder.glob("*.safetensors"):
        path.chmod(0o644)
        path.unlink()
    return folder


def change(path: Path, **values: Any) -> None:
    path.chmod(0o644)
    path.write_text(json.dumps({**(json.loads(path.read_text()) if path.exists() else {}), **values}))


def encoder_of(folder: Path, cpu: Accelerator, **facts: Any) -> Any:
    registry = Registry(Path("models.yaml"), {"mine": ModelEntry.model_validate({**FACTS, **facts})})
    return open_encoder(look_up(registry, "mine", folder.parent), cpu)


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
def test_vectors_are_those_of_sentence_transformers(
    pooling: str, exported: Path, tiny_model: Path, cpu: Accelerator
) -> None:
    from sentence_transformers import SentenceTransformer

    encoder = encoder_of(exported, cpu, pooling=pooling, prompts={"query": "red "}, max_tokens=16)
    model: Any = SentenceTransformer(str(tiny_model), device="cpu")
    model.max_seq_length = 16
    model[1].pooling_mode = {"last": "lasttoken"}.get(pooling, pooling)
    for role, prompt in (("query", "red "), ("passage", "")):
        expected = model.encode(TEXTS, prompt=prompt, normalize_embeddings=True)
        assert encoder.embed(TEXTS, role) == pytest.approx(expected, abs=1e-5)
    entry = ModelEntry.model_validate({**FACTS, "dimensions": expected.shape[1]})
    assert all(check.passed is not False for check in truth_checks(entry, encoder))


def test_pooling_and_prompts_of_the_folder_are_used(exported: Path, cpu: Accelerator, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(exported, folder)
    change(folder / "1_Pooling" / "config.json", pooling_mode="cls")
    change(folder / "config_sentence_transformers.json", prompts={"query": "red ", "document": "blue "})
    own = encoder_of(folder, cpu)
    given = encoder_of(exported, cpu, pooling="cls", prompts={"query": "red ", "passage": "blue "})
    for role in ("query", "passage"):
        assert np.array_equal(own.embed(TEXTS, role), given.embed(TEXTS, role))
    assert own.identity("query") != own.identity("passage")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "onnx" / "model.onnx").unlink(), "no ONNX graph"),
        (lambda folder: (folder / "tokenizer.json").unlink(), r"tokenizer\.json: missing"),
        (lambda folder: (folder / "onnx" / "model.onnx").write_bytes(b"x"), r"model\.onnx cannot be loaded"),
        (lambda folder: shutil.rmtree(folder / "1_Pooling"), "gives no pooling"),
        (
            lambda folder: (folder / "modules.json").write_text(
                '[{"type": "a.Pooling", "path": "1_Pooling"}, {"type": "a.Dense", "path": ""}]'
            ),
            r"projects them after pooling \(Dense\)",
        ),
    ],
)
def test_what_cannot_be_used_is_told(
    damage: Any, message: str, exported: Path, cpu: Accelerator, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(exported, folder)
    for path in folder.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    damage(folder)
    with pytest.raises((EncoderError, RuntimeError), match=message):
        encoder_of(folder, cpu).embed(TEXTS, "query")
