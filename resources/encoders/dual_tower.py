"""CLIP and SigLIP: one network for texts, one for images, one space. No torchvision needed."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resources.encoders.base import Role
from resources.encoders.items import Input, Item, ItemError, Observation, as_items
from resources.encoders.loading import DTYPES, admit_weights, load_checked, transformers, unit
from resources.machine.accelerator import Accelerator
from resources.models.entry import Modality, ModelEntry
from resources.models.files import facts_digest
from storage.digests import digest_json
from storage.progress import Progress, no_progress

if TYPE_CHECKING:
    from resources.encoders.base import Vectors

MODALITIES: tuple[Modality, ...] = ("text", "image")


class DualTowerEncoder:
    """Embeds with the CLIP- or SigLIP-like model in ``folder``, loaded at first use.

    Vectors are the normalised ``text_embeds`` and ``image_embeds`` of the model's own forward pass. Where the
    entry says ``pad_to_max``, every text is padded to ``max_tokens``: SigLIP was trained that way, and
    without it gives worse vectors (its text network attends to the padding).
    """

    def __init__(
        self,
        folder: Path,
        entry: ModelEntry,
        model_digest: str,
        accelerator: Accelerator,
        batch_size: int = 32,
    ):
        self.folder = folder
        self.entry = entry
        self._digest = model_digest
        self._accelerator = accelerator
        self._batch_size = batch_size
        self._parts: tuple[Any, Any, Any] | None = None

    @property
    def modalities(self) -> tuple[Modality, ...]:
        return MODALITIES

    @property
    def dimensions(self) -> int:
        config = self._load()[0].config
        return int(getattr(config, "projection_dim", None) or config.vision_config.hidden_size)

    def identity(self, role: Role) -> str:
        return digest_json([self._digest, facts_digest(self.entry), self.entry.prompts.prefix(role)])

    def embed(self, items: Sequence[Input], role: Role, progress: Progress = no_progress) -> Vectors:
        """As `ItemEncoder.embed`; texts and images may be mixed, but not in one item."""
        import numpy as np

        checked = as_items(items, MODALITIES, self.folder.name)
        for index, item in enumerate(checked):
            if len(item.images) > 1:
                raise ItemError(
                    f"{self.folder.name} takes one image at a time, not {len(item.images)}", index
                )
        vectors = np.empty((len(checked), self.dimensions), dtype=np.float32)
        done = 0
        for modality in MODALITIES:
            rows = [row for row, item in enumerate(checked) if item.modality == modality]
            for start in range(0, len(rows), self._batch_size):
                batch = rows[start : start + self._batch_size]
                vectors[batch] = self._embed_batch([checked[row] for row in batch], modality, role)
                done += len(batch)
                progress(done, len(checked), "items")
        return vectors

    def observe(self, texts: Sequence[str], role: Role) -> Observation:
        """See `Observable`."""
        import torch

        features = self._text_features(texts, role)
        with torch.inference_mode():
            output = self._load()[0].get_text_features(**features)
        tokens = features["input_ids"]
        mask = features.get("attention_mask", torch.ones_like(tokens))
        return Observation(
            tokens.cpu().numpy(),
            mask.cpu().numpy(),
            output.last_hidden_state.float().cpu().numpy(),
            unit(output.pooler_output),
        )

    def close(self) -> None:
        self._parts = None
        gc.collect()

    def _embed_batch(self, items: Sequence[Item], modality: Modality, role: Role) -> Vectors:
        import torch

        model, _, images = self._load()
        with torch.inference_mode():
            if modality == "text":
                output = model.get_text_features(
                    **self._text_features([item.text or "" for item in items], role)
                )
            else:
                pixels = images([item.images[0] for item in items], return_tensors="pt")["pixel_values"]
                output = model.get_image_features(pixel_values=pixels.to(model.device, model.dtype))
        return unit(output.pooler_output)

    def _text_features(self, texts: Sequence[str], role: Role) -> dict[str, Any]:
        model, tokenizer, _ = self._load()
        entry = self.entry
        prefix = entry.prompts.prefix(role)
        shown = [prefix + text for text in texts]
        encoded = tokenizer(
            [text.lower() for text in shown] if entry.lowercase else shown,
            padding="max_length" if entry.pad_to_max else "longest",
            truncation=True,
            max_length=entry.max_tokens or model.config.text_config.max_position_embeddings,
            return_tensors="pt",
        )
        names = ("input_ids",) if entry.pad_to_max else ("input_ids", "attention_mask")
        return {name: encoded[name].to(model.device) for name in names}

    def _load(self) -> tuple[Any, Any, Any]:
        if self._parts is None:
            admit_weights(self.folder, self._accelerator, self.entry.dtype)
            self._parts = load_checked(self.folder, self._open)
        return self._parts

    def _open(self) -> tuple[Any, Any, Any]:
        import torch

        from resources.encoders.packed_linear import for_inference

        hf = transformers()
        folder = str(self.folder)
        dtype = getattr(torch, DTYPES[self.entry.dtype if self._accelerator.device != "cpu" else "fp32"])
        model = hf.AutoModel.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, dtype=dtype
        )
        tokenizer = hf.AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        if self.entry.padding_side is not None:
            tokenizer.padding_side = self.entry.padding_side
        images = hf.AutoImageProcessor.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, backend="pil"
        )
        return (
            for_inference(model, self._accelerator.device, int8=self.entry.dtype == "int8"),
            tokenizer,
            images,
        )
