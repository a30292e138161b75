"""True decoder architectures, tiny and random: one step of training, saved, loaded as any user would."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from assets_pkg.finetune.base_model import fetch_base_model
from storage.artifacts import Checkpoint
from tests.finetune.conftest import TrainingInputs, first_token_sees_the_last, llama, save_decoder

pytestmark = pytest.mark.slow

TEXTS = ["badin kefel ligor", "mohat"]


def bidirectional_llama(folder: Path) -> None:
    """As nvidia/llama-nemotron-embed-1b-v2 lies on the hub: a type of its own, with remote code."""
    llama(folder, model_type="llama_bidirec", auto_map={"AutoModel": "code.Model"}, pooling="avg")


def qwen3(folder: Path) -> None:
    """As Qwen/Qwen3-Embedding: causal, the last token's state is the vector, padding on the left."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
    from transformers import AutoTokenizer, Qwen3Config, Qwen3Model

    plain = folder.with_name("plain")
    save_decoder(Qwen3Config, Qwen3Model, plain, head_dim=8)
    tokenizer = AutoTokenizer.from_pretrained(plain)
    tokenizer.padding_side = "left"
    tokenizer.save_pretrained(plain)
    modules = [Transformer(str(plain)), Pooling(32, "lasttoken"), Normalize()]
    SentenceTransformer(modules=modules, device="cpu").save_pretrained(str(folder))


@pytest.mark.parametrize("lora_rank", [None, 2])
@pytest.mark.parametrize(("make", "bidirectional"), [(bidirectional_llama, True), (qwen3, False)])
def test_a_decoder_is_tuned_and_loads_anywhere(
    make: Callable[[Path], None],
    bidirectional: bool,
    lora_rank: int | None,
    inputs: TrainingInputs,
    tmp_path: Path,
) -> None:
    from sentence_transformers import SentenceTransformer

    make(tmp_path / "source")
    model = inputs.model.model_copy(update={"base_model": str(tmp_path / "source")})
    fetch_base_model(model, tmp_path / "base")
    base = Checkpoint(tmp_path / "base", "base_model", "b")
    one_step = {"num_epochs": 1, "global_batch_size": 64, "local_batch_size": 4, "lora_rank": lora_rank}
    replace(inputs, base=base, model=model).finetune(tmp_path / "tuned", **one_step)
    tuned = Checkpoint(tmp_path / "tuned", "checkpoint", "t")
    assert tuned.summary()["steps_done"] == 1

    assert first_token_sees_the_last(tuned.model) is bidirectional
    before, after = (SentenceTransformer(str(each.model), device="cpu") for each in (base, tuned))
    for loaded in (before, after):
        assert loaded.prompts["query"] == "query: "
        assert loaded.max_seq_length == 24
    old, new = (loaded.encode_query(TEXTS) for loaded in (before, after))
    assert np.linalg.norm(new, axis=1) == pytest.approx([1, 1], abs=1e-5)
    assert np.abs(new - old).max() > 1e-3
    alone: Any = after.encode_query(TEXTS[1])
    assert alone == pytest.approx(new[1], abs=1e-5)
    names: list[set[str]] = [set(loaded.state_dict()) for loaded in (before, after)]
    assert names[0] == names[1]
