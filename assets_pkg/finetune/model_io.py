"""Model folders: check their files, load a model for training, add and merge LoRA, save in the base's layout."""

from __future__ import annotations

import importlib.util
import json
import math
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assets_pkg.config.base import ModelSettings
from assets_pkg.config.sections.finetune import FinetuneSettings
from assets_pkg.finetune.errors import BaseModelError
from resources.encoders.speed import cpu_training_rates
from resources.machine.accelerator import Accelerator
from resources.models.safetensors_files import announced_bytes, tensor_shapes
from storage.files import copy_file

if TYPE_CHECKING:
    import torch
    from sentence_transformers import SentenceTransformer

WEIGHT_PATTERNS = ("*.safetensors", "*.safetensors.index.json", "pytorch_model*.bin", "pytorch_model*.json")

TOKENIZERS = ("tokenizer.json", "vocab.txt", "vocab.json", "*.model", "tekken.json")


def weight_files(folder: Path) -> list[Path]:
    """Every weight file of one module's folder, and the index of sharded ones."""
    return sorted(path for pattern in WEIGHT_PATTERNS for path in folder.glob(pattern))


def check_weights(folder: Path) -> None:
    """Check that all of a transformer's weight files exist and none is truncated.

    Raises:
        BaseModelError: naming the file that is missing or damaged.
    """
    again = "download or copy the model again"
    index = folder / "model.safetensors.index.json"
    if index.exists():
        for name in sorted(set(_read_json(index)["weight_map"].values())):
            if not (folder / name).exists():
                raise BaseModelError(f"{folder / name}: missing, but {index.name} names it: {again}")
    elif not weight_files(folder):
        raise BaseModelError(f"{folder}: no weights (model.safetensors or pytorch_model.bin): {again}")
    for path in folder.glob("*.safetensors"):
        _check_size(path, again)


def check_tokenizer(folder: Path) -> None:
    """Check that a tokenizer's vocabulary exists (transformers would silently create an empty one).

    Raises:
        BaseModelError: it does not.
    """
    if not any(path for pattern in TOKENIZERS for path in folder.glob(pattern)):
        raise BaseModelError(
            f"{folder}: no tokenizer ({', '.join(TOKENIZERS)}): download or copy the model again"
        )


def parameter_count(folder: Path) -> int:
    """Number of values in all safetensors files below ``folder`` (0 where there are none)."""
    return sum(
        math.prod(shape) for path in folder.rglob("*.safetensors") for shape in tensor_shapes(path).values()
    )


def _check_size(path: Path, advice: str) -> None:
    try:
        announced = announced_bytes(path)
    except ValueError as error:
        raise BaseModelError(f"{path}: damaged (its header cannot be read): {advice}") from error
    size = path.stat().st_size
    if size != announced:
        raise BaseModelError(f"{path}: has {size:,} bytes where {announced:,} are announced: {advice}")


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise BaseModelError(f"{path}: not JSON: {error}") from error


def load_model(
    folder: Path, device: str, *, trust_remote_code: bool = False, **model_options: Any
) -> SentenceTransformer:
    """The model in ``folder``, without network access; ``model_options`` are passed to transformers."""
    from sentence_transformers import SentenceTransformer
    from transformers.utils import logging

    logging.disable_progress_bar()
    return SentenceTransformer(
        str(folder),
        device=device,
        local_files_only=True,
        trust_remote_code=trust_remote_code,
        model_kwargs=model_options,
    )


def load_for_training(
    folder: Path, model: ModelSettings, settings: FinetuneSettings, accelerator: Accelerator
) -> SentenceTransformer:
    """The model in float32 (the master weights of mixed precision), with the profile's attention and dropout; on a CPU
    it computes nothing for padding, where that is possible."""
    import torch

    from assets_pkg.finetune.packing import pack_texts

    loaded = load_model(
        folder,
        accelerator.device,
        trust_remote_code=model.trust_remote_code,
        dtype=torch.float32,
        attn_implementation=attention(model, settings, accelerator),
    )
    _limit_dropout(loaded, settings.dropout)
    if accelerator.device == "cpu" and model.attn_implementation == "auto":
        pack_texts(loaded)
    return loaded


def use_bf16(settings: FinetuneSettings, accelerator: Accelerator) -> bool:
    """Whether matrix products run in bfloat16 (weights, loss and optimizer stay float32). ``auto``: on a GPU that has
    it, and on a CPU that has it and is faster with it."""
    if settings.precision != "auto":
        return settings.precision == "bf16"
    return accelerator.bf16 and (accelerator.device != "cpu" or cpu_training_rates().bf16_is_faster)


def attention(model: ModelSettings, settings: FinetuneSettings, accelerator: Accelerator) -> str:
    """The attention implementation for training: the fastest that is available, unless the profile names one.

    On a CPU that is ``eager``: the backward pass of the fused kernel is slower there.
    """
    if model.attn_implementation != "auto":
        return model.attn_implementation
    if not accelerator.device.startswith("cuda"):
        return "eager"
    flash = importlib.util.find_spec("flash_attn") is not None and use_bf16(settings, accelerator)
    return "flash_attention_2" if flash else "sdpa"


def attention_of(model: SentenceTransformer) -> str:
    """The attention implementation of a loaded model."""
    transformer: Any = model[0]
    return str(transformer.model.config._attn_implementation)


def _limit_dropout(model: SentenceTransformer, most: float) -> None:
    """Reduce every dropout probability to at most ``most``; models without dropout stay without."""
    import torch

    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = min(module.p, most)
        elif isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = min(module.attention_dropout, most)  # pyright: ignore


def add_lora(model: SentenceTransformer, rank: int, dropout: float, seed: int) -> None:
    """Freeze the transformer and add trainable LoRA adapters of ``rank`` to all its linear layers (Hu et al. 2021,
    https://arxiv.org/abs/2106.09685)."""
    import torch
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)  # the adapters are initialised at random
    config = LoraConfig(
        r=rank, lora_alpha=2 * rank, lora_dropout=dropout, target_modules="all-linear", bias="none"
    )
    transformer: Any = model[0]
    transformer.model = get_peft_model(transformer.model, config)


def merge_lora(model: SentenceTransformer) -> None:
    """Merge the adapters into the weights, so that the model has its base's architecture again."""
    transformer: Any = model[0]
    transformer.model = transformer.model.merge_and_unload()


def save_consolidated(model: SentenceTransformer, base: Path, target: Path, work: Path) -> None:
    """Write ``target`` as a copy of the folder ``base`` with the weights of ``model``.

    Tokenizer, configuration, pooling and prompts are the base's, byte for byte, and the weights have its dtype. So
    equal weights always make an equal folder.
    """
    saved = work / "saved"
    shutil.rmtree(saved, ignore_errors=True)
    model.to(dtype=_stored_dtype(base))
    model.save_pretrained(str(saved), create_model_card=False)
    copy_unchanged(base, target)
    for source, own in zip(module_folders(saved), module_folders(target), strict=True):
        _replace_weights(saved / source, target / own)
        if source:  # parts of a module lie in folders below its own
            for part in (path for path in (saved / source).rglob("*") if path.is_dir()):
                _replace_weights(part, target / own / part.relative_to(saved / source))
    shutil.rmtree(saved)


def module_folders(folder: Path) -> list[str]:
    """The folder of each module of a sentence-transformers model, relative to ``folder``, as modules.json names it.

    sentence-transformers saves under names of its own (``2_Dense``, and the transformer at the top), and loads from
    any (``2_Dense_24``, ``0_Transformer``): what was loaded from one is saved under another.
    """
    return [str(module["path"]) for module in _read_json(folder / "modules.json")]


def copy_unchanged(base: Path, target: Path) -> None:
    """Copy ``base`` to ``target``, sharing no inode with it: versions do not change with each other."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(base, target, copy_function=copy_file)


def _replace_weights(source: Path, target: Path) -> None:
    new = weight_files(source)
    if not new:
        return
    for path in weight_files(target):
        path.unlink()
    for path in new:
        path.chmod(0o644)
        path.rename(target / path.name)


def _stored_dtype(base: Path) -> torch.dtype:
    """The floating-point dtype of the base's safetensors files (float32 if there are none)."""
    import torch
    from safetensors import safe_open

    for path in sorted(base.rglob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 (not a dict)
                kind = file.get_slice(name).get_dtype()
                if kind in ("F16", "BF16"):
                    return {"F16": torch.float16, "BF16": torch.bfloat16}[kind]
                if kind == "F32":
                    return torch.float32
    return torch.float32
