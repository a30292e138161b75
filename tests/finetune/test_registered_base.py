"""A base model by its name in the registry: what the registry says of it is in the folder that everything loads."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from assets_pkg.config.profile_files import load_profile
from assets_pkg.finetune.base_model import describe_contract, fetch_base_model, registry_facts
from assets_pkg.finetune.errors import BaseModelError
from assets_pkg.finetune.model_io import load_model
from resources.encoders.factory import look_up, open_encoder
from resources.models.registry import load_registry
from tests.finetune.conftest import CPU, content_of, save_decoder
from tests.models.tiny import build_clip, byte_tokenizer

TEXTS = ["red sky", "a dog runs over the hill while the sun sets behind an old stone bridge"]
FACTS = {
    "adapter": "sentence_transformer",
    "folder": "tiny",
    "pooling": "last",
    "padding_side": "left",
    "attention": "bidirectional",
    "append_eos": True,
    "max_tokens": 48,
    "dtype": "fp32",
    "prompts": {"query": "{task}: ", "task": "find"},
}


@pytest.fixture
def registered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Qwen2 as its folder lies on the hub, with a tokenizer that adds no token, below ``embedding_models/``."""
    from transformers import Qwen2Config, Qwen2Model

    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "embedding_models" / "tiny"
    save_decoder(Qwen2Config, Qwen2Model, folder, vocab_size=400)
    for path in folder.glob("*token*"):
        path.unlink()
    byte_tokenizer(["<|pad|>", "<|end|>"], pad_token="<|pad|>", eos_token="<|end|>").save_pretrained(folder)
    (tmp_path / "models.yaml").write_text(yaml.safe_dump({"models": {"mine": FACTS}}))
    return folder


def by_hand(folder: Path, prompt: str) -> Any:
    """The last token's state of each text alone, behind its end token, without a mask: float32 [n, 32], unit rows."""
    from transformers import AutoModel, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    network: Any = AutoModel.from_pretrained(folder).eval()
    network.config.is_causal = False
    rows: list[Any] = []
    for text in TEXTS:
        ids = [*tokenizer(prompt + text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        with torch.no_grad():
            rows.append(network(input_ids=torch.tensor([ids])).last_hidden_state[0, -1])
    return torch.nn.functional.normalize(torch.stack(rows), dim=1).numpy()


@pytest.mark.slow
def test_the_registrys_facts_are_in_the_folder(registered: Path, tmp_path: Path) -> None:
    overrides = ["base_model=mine", "query_max_length=null", "passage_max_length=null"]
    model = load_profile("laptop", overrides).model
    assert "queries with 'find: ' before, at most 48 tokens; passages without" in describe_contract(model)
    fetch_base_model(model, tmp_path / "base")
    base = load_model(tmp_path / "base" / "model" / "consolidated", "cpu")
    assert (base.max_seq_length, base.tokenizer.padding_side) == (48, "left")
    assert base.encode_query(TEXTS) == pytest.approx(by_hand(registered, "find: "), abs=1e-5)
    assert base.encode_document(TEXTS) == pytest.approx(by_hand(registered, ""), abs=1e-5)

    encoder = open_encoder(look_up(load_registry(), "mine"), CPU)
    assert encoder.embed(TEXTS, "query") == pytest.approx(by_hand(registered, "find: "), abs=1e-5)

    # A folder that is so already stays so, byte for byte.
    registered.rename(tmp_path / "plain")
    shutil.copytree(tmp_path / "base" / "model" / "consolidated", registered)
    fetch_base_model(model, tmp_path / "again")
    assert content_of(tmp_path / "again") == content_of(tmp_path / "base")


def test_a_changed_fact_changes_the_digest(registered: Path, tmp_path: Path) -> None:
    model = load_profile("laptop", ["base_model=mine"]).model
    before = registry_facts(model)
    changed = {**FACTS, "pooling": "mean"}
    (tmp_path / "models.yaml").write_text(yaml.safe_dump({"models": {"mine": changed}}))
    assert registry_facts(model) != before is not None
    assert registry_facts(load_profile("laptop", [f"base_model={registered}"]).model) is None


def test_a_model_of_another_adapter_is_refused(registered: Path, tmp_path: Path) -> None:
    for name in ("clip-vit-base-patch32", "qwen3-vl-embed-2b", "nv-embed-v2"):
        model = load_profile("laptop", [f"base_model={name}"]).model
        with pytest.raises(BaseModelError, match="only text models of the adapter sentence_transformer"):
            fetch_base_model(model, tmp_path / "base")


def test_a_folder_of_an_image_model_is_refused(tmp_path: Path) -> None:
    build_clip(tmp_path / "clip")
    model = load_profile("laptop", [f"base_model={tmp_path / 'clip'}"]).model
    with pytest.raises(
        BaseModelError, match="model_type 'clip' reads images too: only text models can be tuned"
    ):
        fetch_base_model(model, tmp_path / "base")
