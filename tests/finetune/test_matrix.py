"""Models as they lie on the hub, of every common architecture, tiny and random: loaded, embedded with, trained, saved
and exported."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from assets_pkg.export.onnx import OnnxExportSettings, export_onnx
from assets_pkg.export.parity import measure_parity
from assets_pkg.finetune.base_model import fetch_base_model
from resources.encoders.sentence_transformer import SentenceTransformerEncoder
from storage.artifacts import Checkpoint
from tests.finetune.conftest import CPU, WORDS, TrainingInputs, make_tokenizer
from tests.models.tiny import byte_tokenizer

pytestmark = pytest.mark.slow

TEXTS = ["badin kefel ligor mohat nujum radin sofel tegor", "mohat", "ligor nuhat", " ".join(WORDS[:30])]
ENCODER = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
    "max_position_embeddings": 41, "pad_token_id": 0,
}  # fmt: skip
DECODER = {**ENCODER, "max_position_embeddings": 64, "num_key_value_heads": 2, "head_dim": 8}
ONE_STEP = {"num_epochs": 1, "global_batch_size": 64, "local_batch_size": 16, "train_n_passages": 2}


@dataclass(frozen=True)
class Family:
    """A ``model_type`` of transformers; ``pooling`` makes a sentence-transformers folder of it, else it is a plain one;
    ``dense`` adds a projection to so many dimensions; ``bytewise``: a tokenizer as GPT-2's, without a padding token."""

    kind: str
    sizes: dict[str, Any]
    pooling: str | None = None
    left: bool = False
    dense: int | None = None
    bytewise: bool = False

    def save(self, folder: Path) -> Path:
        import torch
        import transformers
        from transformers import AutoConfig, AutoModel, AutoTokenizer

        plain = folder / "plain"
        make_tokenizer(plain, limit=40)
        if self.bytewise:
            byte_tokenizer(["<|endoftext|>"], eos_token="<|endoftext|>").save_pretrained(plain)
        if self.left:
            tokenizer = AutoTokenizer.from_pretrained(plain)
            tokenizer.padding_side = "left"
            tokenizer.save_pretrained(plain)
        torch.manual_seed(0)
        config: Any = AutoConfig.for_model(self.kind, vocab_size=400, **self.sizes)
        network = transformers.T5EncoderModel(config) if self.kind == "t5" else AutoModel.from_config(config)
        network.save_pretrained(plain)
        return plain if self.pooling is None else self._with_modules(plain, folder / "whole")

    def _with_modules(self, plain: Path, folder: Path) -> Path:
        import torch
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, Transformer

        modules: list[Any] = [Transformer(str(plain)), Pooling(32, self.pooling)]
        if self.dense is not None:
            modules.append(Dense(32, self.dense, bias=False, activation_function=torch.nn.Identity()))
        SentenceTransformer(modules=[*modules, Normalize()], device="cpu").save_pretrained(str(folder))
        return folder


FAMILIES = {
    "bert": Family("bert", ENCODER, "cls"),
    "distilbert": Family(
        "distilbert", {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64, "max_position_embeddings": 40}
    ),
    "roberta": Family("roberta", ENCODER),
    "xlm-roberta": Family("xlm-roberta", ENCODER, "cls"),
    "mpnet": Family("mpnet", {**ENCODER, "max_position_embeddings": 42}, "mean"),
    "electra": Family("electra", {**ENCODER, "embedding_size": 32}),
    "modernbert": Family("modernbert", {**ENCODER, "local_attention": 8, "cls_token_id": 2, "sep_token_id": 3}, "cls"),
    "t5": Family("t5", {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}, "mean", dense=24),
    "gpt2": Family("gpt2", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 40}, bytewise=True),
    "llama, both directions": Family("llama", {**DECODER, "is_causal": False}, "mean", left=True),
    "mistral": Family("mistral", {**DECODER, "sliding_window": 8}, "lasttoken", left=True),
    "qwen2": Family("qwen2", DECODER, "lasttoken"),
    "qwen3": Family("qwen3", DECODER, "lasttoken", left=True),
    "embeddinggemma": Family(
        "gemma3_text", {**DECODER, "sliding_window": 8, "use_bidirectional_attention": True}, "mean", dense=24
    ),
    "ministral3, both directions": Family("ministral3", {**DECODER, "is_causal": False}, "mean"),
}  # fmt: skip


def own_vectors(folder: Path) -> Any:
    """sentence-transformers' own."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu")
    model.max_seq_length = 24
    if model.tokenizer.pad_token is None:
        model.tokenizer.pad_token = model.tokenizer.eos_token
    return model.encode(TEXTS, normalize_embeddings=True, prompt="", batch_size=len(TEXTS))


@pytest.mark.parametrize("name", FAMILIES)
def test_a_model_is_embedded_with_trained_saved_and_exported(
    name: str, inputs: TrainingInputs, tmp_path: Path
) -> None:
    source = FAMILIES[name].save(tmp_path)
    changes = {"base_model": str(source), "query_prefix": "", "passage_prefix": "", "query_max_length": 24}
    model = inputs.model.model_copy(update=changes)
    fetch_base_model(model, tmp_path / "base")
    base = Checkpoint(tmp_path / "base", "base_model", "b")
    expected = own_vectors(source)
    with SentenceTransformerEncoder(base.model, "b", CPU, model.encoder_config()) as encoder:
        assert encoder.embed(TEXTS, "passage") == pytest.approx(expected, abs=1e-5)

    replace(inputs, base=base, model=model).finetune(tmp_path / "tuned", **ONE_STEP)
    tuned = Checkpoint(tmp_path / "tuned", "checkpoint", "t")
    trained = own_vectors(tuned.model)
    assert np.abs(trained - expected).max() > 1e-3
    with SentenceTransformerEncoder(tuned.model, "t", CPU, model.encoder_config()) as encoder:
        assert encoder.embed(TEXTS, "passage") == pytest.approx(trained, abs=1e-5)

    settings = OnnxExportSettings(max_length=24)
    export_onnx(tuned.model, tmp_path / "onnx", model_id="m", model_digest="abc", settings=settings)
    assert measure_parity(tuned.model, tmp_path / "onnx", TEXTS).max_cosine_distance < 1e-5
