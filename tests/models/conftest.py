"""Tiny checkpoints of true architectures and their registry entries."""

from __future__ import annotations

from pathlib import Path

import pytest

from resources.machine.accelerator import Accelerator
from resources.models.entry import ModelEntry
from tests.models import tiny

QWEN3_VL = {
    "adapter": "qwen3_vl", "folder": "qwen3-vl", "modalities": ["text", "image", "text_image"], "dimensions": 64,
    "max_tokens": 256, "pooling": "last", "padding_side": "right", "attention": "causal", "dtype": "fp32",
    "model_types": ["qwen3_vl"], "image": {"min_pixels": 1024, "max_pixels": 16384, "factor": 32},
}  # fmt: skip
CLIP = {
    "adapter": "dual_tower", "folder": "clip", "modalities": ["text", "image"], "dimensions": 32, "max_tokens": 77,
    "pooling": "eos", "padding_side": "right", "attention": "causal", "dtype": "fp32", "model_types": ["clip"],
}  # fmt: skip
SIGLIP = {
    "adapter": "dual_tower", "folder": "siglip", "modalities": ["text", "image"], "dimensions": 32, "max_tokens": 16,
    "pad_to_max": True, "padding_side": "right", "attention": "bidirectional", "dtype": "fp32", "lowercase": True,
    "model_types": ["siglip"],
}  # fmt: skip
LLAMA = {
    "adapter": "sentence_transformer", "folder": "llama", "dimensions": 32, "max_tokens": 128, "pooling": "mean",
    "padding_side": "left", "attention": "bidirectional", "dtype": "fp32",
    "model_types": ["llama", "llama_bidirec"], "prompts": {"query": "query: ", "passage": "passage: "},
}  # fmt: skip
ENTRIES = {"qwen3-vl": QWEN3_VL, "clip": CLIP, "siglip": SIGLIP, "llama": LLAMA}


@pytest.fixture(scope="session")
def cpu() -> Accelerator:
    return Accelerator("cpu", "cpu", bf16=False, memory_bytes=0)


@pytest.fixture(scope="session")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``embedding_models/`` with one tiny model of each architecture."""
    root = tmp_path_factory.mktemp("embedding_models")
    tiny.build_qwen3_vl(root / "qwen3-vl")
    tiny.build_clip(root / "clip")
    tiny.build_siglip(root / "siglip")
    tiny.build_llama(root / "llama", model_type="llama_bidirec")
    return root


@pytest.fixture(scope="session")
def entries() -> dict[str, ModelEntry]:
    return {name: ModelEntry.model_validate(facts) for name, facts in ENTRIES.items()}
