"""The finished checkpoint: the base's folder with other weights in it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from assets_pkg.finetune.weights import weight_files

if TYPE_CHECKING:
    import torch
    from sentence_transformers import SentenceTransformer


def save_consolidated(model: SentenceTransformer, base: Path, target: Path, work: Path) -> None:
    """Write ``target`` as a copy of the folder ``base`` with the weights of ``model``.

    Tokenizer, configuration, pooling, prompts and the number format of the weights stay the base's, byte for
    byte; only weight files differ. So equal weights always make an equal folder.
    """
    saved = work / "saved"
    shutil.rmtree(saved, ignore_errors=True)
    model.to(dtype=_stored_dtype(base))
    model.save_pretrained(str(saved), create_model_card=False)
    copy_unchanged(base, target)
    for path in saved.rglob("*"):
        if path.is_dir():
            _replace_weights(path, target / path.relative_to(saved))
    _replace_weights(saved, target)
    shutil.rmtree(saved)


def copy_unchanged(base: Path, target: Path) -> None:
    """Make ``target`` hold the files of ``base``, linked where the file system allows it."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(base, target, copy_function=_link)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(source, target)


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
    """The floating-point format of the base's weight files (float32 where they do not say)."""
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
