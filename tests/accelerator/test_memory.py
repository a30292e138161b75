"""Estimates of memory: worked by hand, and against what PyTorch really keeps."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from assets_pkg.config.profile_files import load_profile
from assets_pkg.finetune.preflight import (
    PADDING_OF_ALL,
    TokenLengths,
    Workload,
    admit_training,
    fits_whole,
    mini_batches,
)
from resources.machine.accelerator import Accelerator, NotEnoughMemoryError
from resources.machine.memory_estimate import (
    CPU_SLACK,
    CUDA_WORKSPACE,
    LIBRARIES,
    Batch,
    MemoryNeed,
    Numerics,
    embedding_need,
    export_need,
    lora_weights,
    training_need,
)
from resources.models.shape import ModelShape, read_shape

pytestmark = pytest.mark.slow

SMALL = ModelShape(
    parameters=1000,
    largest=400,
    linear=((4, 4), (4, 4), (8, 4), (4, 8)),
    layers=2,
    hidden=4,
    inner=8,
    heads=2,
    gated=False,
    stored_bytes=4000,
)


class TestByHand:
    def test_embedding(self) -> None:
        # Ten tokens: 6 rows of 4 and 2 of 8 each, in float32.
        need = embedding_need(SMALL, Batch(10, 5), Numerics("cpu", fused=True))
        expected = {"weights": 4000, "activations": int(CPU_SLACK * 4 * 10 * 40), "libraries": LIBRARIES}
        assert need.parts == expected

    def test_scores_count_where_attention_is_not_fused(self) -> None:
        # Three copies of 2 heads x 5 scores for each token.
        need = embedding_need(SMALL, Batch(10, 5), Numerics("cpu"))
        assert need.parts["activations"] == int(CPU_SLACK * 4 * 10 * (40 + 30))

    def test_weights_of_two_bytes(self) -> None:
        need = embedding_need(SMALL, Batch(10, 5), Numerics("cuda", fused=True, weight_bytes=2))
        assert need.parts["weights"] == 2000
        assert need.parts["libraries"] == CUDA_WORKSPACE

    def test_training_all_weights(self) -> None:
        need = training_need(SMALL, Batch(1, 5), Numerics("cpu", fused=True))
        assert need.parts["weights"] == 4 * 1000
        assert need.parts["gradients"] == 4 * (1000 + 400)
        assert need.parts["optimizer"] == 8 * 1000
        # A block keeps 12 rows of 4 and 2 of 8; the last of two is there twice.
        assert need.parts["activations"] == int(CPU_SLACK * 4 * (64 + 2 * 64))

    def test_autocast_keeps_copies_of_the_weights(self) -> None:
        need = training_need(SMALL, Batch(1, 5), Numerics("cpu", bf16=True))
        assert need.parts["weights"] == (4 + 2) * 1000

    def test_lora_trains_thin_matrices_only(self) -> None:
        # Rank 2: 2 x (8 + 8 + 12 + 12).
        assert lora_weights(SMALL, 2) == 80
        need = training_need(SMALL, Batch(1, 5), Numerics("cpu"), lora_rank=2)
        assert need.parts["optimizer"] == 8 * 80
        assert need.parts["gradients"] == 4 * 80

    def test_export(self) -> None:
        assert export_need(SMALL).parts == {"weights": 4000, "graph": 22000, "libraries": LIBRARIES}

    def test_processes_share_a_host(self) -> None:
        assert MemoryNeed("training", {"weights": 3}).times(2).parts == {"weights": 6}


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("bf16", [False, True])
def test_what_backward_needs_is_bounded_and_not_by_much(
    minilm: Path, attention: str, dropout: float, bf16: bool
) -> None:
    """MiniLM, 512 tokens: the formula against the tensors that autograd keeps."""
    kept = _kept_by_autograd(minilm, attention, dropout, bf16, lambda model: None)
    how = Numerics("cpu", bf16=bf16, fused=attention == "sdpa", dropout=dropout > 0)
    estimate = training_need(read_shape(minilm), Batch(512, 128), how).parts["activations"] / CPU_SLACK
    assert kept <= estimate <= 2.5 * kept


def test_checkpointing_keeps_little(minilm: Path) -> None:
    def checkpoint(model: object) -> None:
        model[0].auto_model.gradient_checkpointing_enable()  # type: ignore[index]

    kept = _kept_by_autograd(minilm, "eager", 0.0, False, checkpoint)
    how, shape = Numerics("cpu"), read_shape(minilm)
    need = training_need(shape, Batch(512, 128), how, checkpointing=True)
    assert kept <= need.parts["activations"]
    assert need.total < training_need(shape, Batch(512, 128), how).total


def _kept_by_autograd(
    folder: Path, attention: str, dropout: float, bf16: bool, change: Callable[[object], None]
) -> int:
    """Bytes of distinct storage, weights aside, that a forward pass of 4 x 128 tokens leaves for backward."""
    import torch

    from assets_pkg.finetune.model_io import load_model

    model = load_model(folder, "cpu", dtype=torch.float32, attn_implementation=attention)
    change(model)
    model.train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = dropout
    own = {each.untyped_storage().data_ptr() for each in model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    tokens = torch.randint(1000, 2000, (4, 128))
    features = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens), "modality": "text"}
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=bf16),
    ):
        model(features)
    return sum(each.untyped_storage().nbytes() for each in kept.values())


GROWTH = """
import json, sys
from pathlib import Path
import torch
from resources.machine.accelerator import find_accelerator
from resources.encoders.encoder_config import EncoderConfig
from resources.encoders.sentence_transformer import SentenceTransformerEncoder

def status(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))

folder, length = Path(sys.argv[1]), int(sys.argv[2])
device = find_accelerator("cpu")
before = status("VmRSS")
with SentenceTransformerEncoder(folder, "x", device, EncoderConfig("", "", length, length)) as encoder:
    encoder.embed(["word " * 2 * length] * 24, "passage")
print(json.dumps(status("VmHWM") - before))
"""


def test_embedding_takes_no_more_than_estimated(minilm: Path) -> None:
    """The growth of a process that embeds with MiniLM, libraries included."""
    done = subprocess.run(
        [sys.executable, "-c", GROWTH, str(minilm), "256"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    grown = json.loads(done.stdout)
    need = embedding_need(read_shape(minilm), Batch(2048, 256), Numerics("cpu", fused=True))
    assert grown <= need.total <= 2 * grown


class TestTraining:
    def test_the_demo_fits_a_small_laptop(self, minilm: Path) -> None:
        profile = load_profile("laptop")
        load = Workload.upper_bound(read_shape(minilm), profile.model, profile.finetune, 64)
        for bf16 in (False, True):
            small = Accelerator("cpu", "laptop", bf16=bf16, memory_bytes=2_000_000_000)
            admit_training(load, profile.finetune, small)

    def test_lengths_are_bounded_by_bytes_and_by_the_limit(self) -> None:
        lengths = TokenLengths.estimate(["abcd", "x" * 1000], limit=14)
        assert (lengths.mean, lengths.variance, lengths.longest) == (8.5, 30.25, 14)  # 3 and 14 tokens

    def test_lengths_with_their_margin_hold_for_a_real_tokenizer(self, minilm: Path) -> None:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(minilm)
        texts = [Path(__file__).read_text("utf-8"), "Ein Zählerstand, größer als üblich.", "日本語の文章です"]
        for text in texts:
            estimate = TokenLengths.estimate([text], 10**6).longest
            assert len(tokenizer(text, truncation=False)["input_ids"]) <= PADDING_OF_ALL * estimate

    def test_a_cached_batch_counts_one_part(self) -> None:
        settings = load_profile("laptop").finetune
        model = load_profile("laptop").model
        assert mini_batches(settings, model, 64, "cpu").cached
        assert mini_batches(settings, model, 64, "cpu").tokens == 1024
        assert not mini_batches(settings, model, 32, "cpu").cached

    @pytest.mark.parametrize(
        ("total", "free", "whole"),
        [(16e9, 5e9, True), (16e9, 4e9, False), (12e9, 12e9, False), (0, 0, False)],
    )
    def test_a_whole_batch_may_take_a_third_of_the_memory(
        self, minilm: Path, total: float, free: float, whole: bool
    ) -> None:
        """Of the laptop profile with texts of 40 and 120 tokens: 64 x 160 tokens take 4.5 GB."""
        profile = load_profile("laptop")
        lengths = TokenLengths(40, 0, 40), TokenLengths(120, 0, 120)
        load = Workload(read_shape(minilm), 64, *lengths, profile.model)
        device = Accelerator("cpu", "laptop", bf16=False, memory_bytes=int(free), total_bytes=int(total))
        assert fits_whole(load, profile.finetune, device) is whole

    def test_a_refusal_has_the_figures_and_a_setting_that_fits(self, minilm: Path) -> None:
        profile = load_profile("laptop", ["local_batch_size=64", "dropout=0.1"])
        load = Workload.upper_bound(read_shape(minilm), profile.model, profile.finetune, 64)
        laptop = Accelerator("cpu", "an old laptop", bf16=False, memory_bytes=4_000_000_000)
        with pytest.raises(NotEnoughMemoryError) as refused:
            admit_training(load, profile.finetune, laptop)
        said = str(refused.value)
        assert "optimizer 0.18" in said
        assert "4.00 GB are free on cpu (an old laptop)" in said
        assert "finetune.local_batch_size=32 would need" in said
        smaller = profile.finetune.model_copy(update={"local_batch_size": 32})
        admit_training(load, smaller, laptop)

    def test_without_any_way_out_it_says_so(self, minilm: Path) -> None:
        profile = load_profile("laptop")
        load = Workload.upper_bound(read_shape(minilm), profile.model, profile.finetune, 64)
        with pytest.raises(NotEnoughMemoryError, match="No setting makes it small enough"):
            admit_training(load, profile.finetune, Accelerator("cpu", "toy", False, 100_000_000))

    def test_every_process_on_a_host_counts(self, minilm: Path) -> None:
        profile = load_profile("laptop", ["num_processes=2"])
        load = Workload.upper_bound(read_shape(minilm), profile.model, profile.finetune, 64)
        cpu = Accelerator("cpu", "", bf16=False, memory_bytes=0)
        assert load.need(profile.finetune, cpu).purpose == "training in 2 processes"
