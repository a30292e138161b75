"""With a CUDA device: what was estimated against what torch took. Left out where there is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from resources.configurable import AcceleratorResource
from resources.encoders.encoder_config import EncoderConfig
from resources.encoders.sentence_transformer import SentenceTransformerEncoder
from resources.machine.accelerator import NotEnoughMemoryError, find_accelerator
from resources.machine.memory_estimate import Batch, Numerics, embedding_need, training_need
from resources.machine.usage import UsageMeter, find_handle, nvml
from resources.models.shape import read_shape

pytestmark = pytest.mark.gpu


def test_the_device_has_a_name_and_free_memory() -> None:
    import torch

    found = find_accelerator("cuda")
    assert found.name == torch.cuda.get_device_name(0)
    assert 0 < found.memory_bytes <= torch.cuda.get_device_properties(0).total_memory


def test_one_beyond_the_last_is_refused() -> None:
    import torch

    with pytest.raises(ValueError, match="the last is"):
        find_accelerator(f"cuda:{torch.cuda.device_count()}")


def test_memory_that_torch_holds_unused_counts_as_free() -> None:
    import torch

    torch.cuda.empty_cache()
    before = find_accelerator("cuda").memory_bytes
    block = torch.empty(2**28, dtype=torch.uint8, device="cuda")
    during = find_accelerator("cuda").memory_bytes
    del block
    assert before - during >= 2**28 * 0.9
    assert find_accelerator("cuda").memory_bytes >= before - 2**26


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_embedding_takes_no_more_than_estimated(minilm: Path, precision: str) -> None:
    import torch

    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    with SentenceTransformerEncoder(
        minilm,
        "x",
        AcceleratorResource(device="cuda").get(),
        EncoderConfig(precision="bf16" if precision == "bf16" else "fp32", batch_size=64),
    ) as encoder:
        vectors = encoder.embed(["word " * 600] * 64, "passage")
    assert vectors.shape == (64, 384)
    how = Numerics("cuda", bf16=precision == "bf16", fused=True)
    estimate = embedding_need(read_shape(minilm), Batch(64 * 512, 512), how).total
    assert torch.cuda.max_memory_reserved() - before <= estimate


def test_training_takes_no_more_than_estimated(minilm: Path) -> None:
    import torch

    from assets_pkg.finetune.model_io import load_model

    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    model = load_model(minilm, "cuda", dtype=torch.float32, attn_implementation="sdpa").train()
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    tokens = torch.randint(1000, 2000, (32, 256), device="cuda")
    features = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens), "modality": "text"}
    for _ in range(2):
        with torch.autocast("cuda", torch.bfloat16):
            model(dict(features))["sentence_embedding"].float().square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    how = Numerics("cuda", bf16=True, fused=True, dropout=True)
    need = training_need(read_shape(minilm), Batch(32 * 256, 256), how)
    assert torch.cuda.max_memory_reserved() <= need.total <= 4 * torch.cuda.max_memory_reserved()


def test_a_model_too_large_is_refused_before_it_is_loaded(minilm: Path) -> None:
    import torch

    held = find_accelerator("cuda").memory_bytes - 200_000_000
    block = torch.empty(held, dtype=torch.uint8, device="cuda")
    encoder = SentenceTransformerEncoder(minilm, "x", find_accelerator("cuda"))
    with pytest.raises(NotEnoughMemoryError):
        encoder.embed(["a text"], "query")
    del block
    torch.cuda.empty_cache()


def test_figures_of_a_step() -> None:
    import torch

    torch.zeros(1, device="cuda")
    with UsageMeter() as meter:
        square = torch.rand(4096, 4096, device="cuda")
        for _ in range(50):
            square = (square @ square).clamp(max=1)
        torch.cuda.synchronize()
    figures = meter.figures()
    assert figures["device"] == torch.cuda.get_device_name(0)
    assert figures["gpu_peak_memory_gb"] >= 0.06
    with nvml() as library:
        if library is not None:
            assert find_handle(library, str(torch.cuda.get_device_properties(0).uuid)) is not None
            assert figures["gpu_memory_in_use_peak_gb"] > 0
