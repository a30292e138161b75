"""A model with code of its own: with ``trust_remote_code`` it goes the whole way, from the base to the export."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from assets_pkg.config.errors import ProfileError
from assets_pkg.config.profile_files import load_profile
from assets_pkg.export.onnx import OnnxExportSettings, export_onnx
from assets_pkg.export.parity import measure_parity
from assets_pkg.finetune.base_model import fetch_base_model
from assets_pkg.finetune.errors import BaseModelError
from resources.encoders.recipe import EncoderRecipe
from resources.encoders.token_counter import token_counter
from storage.artifacts import Checkpoint
from tests.finetune.conftest import CPU, TrainingInputs, make_tokenizer

TEXTS = ["badin kefel ligor", "mohat"]
CODE = """
import torch
from transformers import BertConfig, BertModel


class OwnConfig(BertConfig):
    model_type = "nobody_knows"


class OwnModel(BertModel):
    config_class = OwnConfig

    def forward(self, *args, **options):
        output = super().forward(*args, **options)
        output.last_hidden_state = torch.tanh(3 * output.last_hidden_state)
        return output
"""
COMMIT = "0" * 40


@pytest.fixture
def own_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model whose network only its own code knows."""
    import torch
    from transformers import BertConfig, BertModel

    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    folder = tmp_path / "source"
    make_tokenizer(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    BertModel(BertConfig(vocab_size=60, max_position_embeddings=32, **sizes)).save_pretrained(folder)
    (folder / "own.py").write_text(CODE)
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "model_type": "nobody_knows",
        "auto_map": {"AutoConfig": "own.OwnConfig", "AutoModel": "own.OwnModel"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def trusting(folder: Path, inputs: TrainingInputs) -> Any:
    changes = {"base_model": str(folder), "trust_remote_code": True, "query_max_length": 24}
    return inputs.model.model_copy(update=changes)


@pytest.mark.slow
def test_a_model_with_code_of_its_own_goes_the_whole_way(
    own_code: Path, inputs: TrainingInputs, tmp_path: Path
) -> None:
    model = trusting(own_code, inputs)
    fetch_base_model(model, tmp_path / "base")
    base = Checkpoint(tmp_path / "base", "base_model", "b")
    assert token_counter(base.model, "", trust_remote_code=True)(["badin"]) == [3]
    replace(inputs, base=base, model=model).finetune(tmp_path / "tuned", num_epochs=1)
    tuned = Checkpoint(tmp_path / "tuned", "checkpoint", "t")
    before, after = (
        EncoderRecipe.load(EncoderRecipe(str(each.model), each.version, model.encoder_config()).dump())
        .make(CPU)
        .embed(TEXTS, "query")
        for each in (base, tuned)
    )
    assert np.abs(before - after).max() > 1e-3

    settings = OnnxExportSettings(max_length=24)
    export_onnx(
        tuned.model,
        tmp_path / "onnx",
        model_id="m",
        model_digest="abc",
        settings=settings,
        trust_remote_code=True,
    )
    parity = measure_parity(tuned.model, tmp_path / "onnx", TEXTS, trust_remote_code=True)
    assert parity.max_cosine_distance < 1e-5


def test_code_of_another_repository_is_refused(
    own_code: Path, inputs: TrainingInputs, tmp_path: Path
) -> None:
    path = own_code / "config.json"
    config = json.loads(path.read_text())
    config["auto_map"]["AutoModel"] = "some/where--own.OwnModel"
    path.write_text(json.dumps(config))
    with pytest.raises(BaseModelError, match=r"code of another repository, some/where.*copy its files"):
        fetch_base_model(trusting(own_code, inputs), tmp_path / "base")


@pytest.mark.parametrize("revision", ["null", "main", "v1.0"])
def test_code_of_the_hub_needs_a_commit(revision: str) -> None:
    settings = ["base_model=owner/name", "trust_remote_code=true", f"revision={revision}", "query_prefix=''"]
    with pytest.raises(ProfileError, match=r"Python code of owner/name with your rights.*40 digits"):
        load_profile("default", settings)
    load_profile("default", [*settings, f"revision='{COMMIT}'"])


@pytest.mark.parametrize("changes", [["use_onnx=false"], ["deploy.backend=vllm"]])
def test_no_server_runs_a_models_own_code(changes: list[str], own_code: Path) -> None:
    with pytest.raises(ProfileError, match="serve its ONNX export"):
        load_profile("laptop", [f"base_model={own_code}", "trust_remote_code=true", *changes])
    load_profile("laptop", [f"base_model={own_code}", *changes])
