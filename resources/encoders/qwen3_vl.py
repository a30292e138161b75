"""Qwen3-VL-Embedding: text, images or both through one chat template, read off at the last token.

The recipe is upstream's (github.com/QwenLM/Qwen3-VL-Embedding, ``src/models/qwen3_vl_embedding.py``): the system
message is the instruction, the user message holds images before text, the assistant's message is opened and left
empty; right padding, last hidden state of the last token, length 1. Images are resized to a multiple of 32
within the registered limits. It runs without torchvision: images go through the Pillow image processor, and the
image placeholders are expanded here. Unlike upstream, an image that cannot be read is an error and not silently
the text "NULL", and special tokens written in a text are text.
"""

from __future__ import annotations

import gc
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resources.encoders.base import Role
from resources.encoders.items import Input, Item, ItemError, Observation, as_items
from resources.encoders.loading import DTYPES, admit_weights, load_checked, transformers, unit
from resources.encoders.sentence_transformer import EncoderError
from resources.machine.accelerator import Accelerator
from resources.models.entry import ImageLimits, Modality, ModelEntry
from resources.models.files import facts_digest
from storage.digests import digest_json
from storage.progress import Progress, no_progress

if TYPE_CHECKING:
    import torch
    from PIL import Image

    from resources.encoders.base import Vectors

MODALITIES: tuple[Modality, ...] = ("text", "image", "text_image")
DEFAULT_INSTRUCTION = "Represent the user's input."
EMPTY = "NULL"
DEFAULT_LIMITS = ImageLimits(min_pixels=4096, max_pixels=1_843_200, factor=32)
DEFAULT_TOKENS = 8192
IMAGE_PAD = "<|image_pad|>"
BLOCK = 64
"""Items whose pixels are in memory together."""


@dataclass(frozen=True)
class _Prepared:
    """One item as the network takes it: token ids, and the patches and grids of its images."""

    ids: list[int]
    pixels: Any
    grids: Any


@dataclass(frozen=True)
class _Parts:
    model: Any
    tokenizer: Any
    images: Any
    image_id: int
    special: frozenset[str]


class Qwen3VLEncoder:
    """Embeds with the Qwen3-VL model in ``folder``, loaded at first use.

    ``batch_tokens`` bounds the padded tokens of one batch, an image's own included.
    """

    def __init__(
        self,
        folder: Path,
        entry: ModelEntry,
        model_digest: str,
        accelerator: Accelerator,
        batch_tokens: int = 16384,
    ):
        self.folder = folder
        self.entry = entry
        self._digest = model_digest
        self._accelerator = accelerator
        self._batch_tokens = batch_tokens
        self._limits = entry.image or DEFAULT_LIMITS
        self._max_tokens = entry.text_tokens or DEFAULT_TOKENS
        self._loaded: _Parts | None = None

    @property
    def modalities(self) -> tuple[Modality, ...]:
        return MODALITIES

    @property
    def dimensions(self) -> int:
        return int(self._load().model.config.text_config.hidden_size)

    def identity(self, role: Role) -> str:
        return digest_json([self._digest, facts_digest(self.entry), self._instruction(None, role)])

    def embed(self, items: Sequence[Input], role: Role, progress: Progress = no_progress) -> Vectors:
        """As `ItemEncoder.embed`; all modalities may be mixed in one call.

        Raises:
            ItemError: an item's images alone have more tokens than the model takes.
        """
        import numpy as np
        import torch

        checked = as_items(items, MODALITIES, self.folder.name)
        vectors = np.empty((len(checked), self.dimensions), dtype=np.float32)
        done = 0
        for start in range(0, len(checked), BLOCK):
            prepared = [
                self._prepare(item, role, index)
                for index, item in enumerate(checked[start : start + BLOCK], start)
            ]
            for rows in self._batches(prepared):
                features = self._pad([prepared[row] for row in rows])
                with torch.inference_mode():
                    hidden = self._load().model(**features).last_hidden_state
                vectors[[start + row for row in rows]] = unit(last_token(hidden, features["attention_mask"]))
                done += len(rows)
                progress(done, len(checked), "items")
        return vectors

    def observe(self, texts: Sequence[str], role: Role) -> Observation:
        """See `Observable`."""
        import torch

        features = self._pad(
            [self._prepare(Item(text=text), role, index) for index, text in enumerate(texts)]
        )
        mask = features["attention_mask"]
        with torch.inference_mode():
            hidden = self._load().model(**features).last_hidden_state
        return Observation(
            features["input_ids"].cpu().numpy(),
            mask.cpu().numpy(),
            hidden.float().cpu().numpy(),
            unit(last_token(hidden, mask)),
        )

    def close(self) -> None:
        self._loaded = None
        gc.collect()

    # ---- one item ------------------------------------------------------------------------------------------

    def _prepare(self, item: Item, role: Role, index: int) -> _Prepared:
        parts = self._load()
        pixels, grids = self._pixels(item.images)
        counts = [int(grid.prod()) // parts.images.merge_size**2 for grid in grids]
        text = self._plain(item.text or "")
        ids = self._tokens(item, text, counts, role)
        if len(ids) > self._max_tokens:
            text = self._cut(text, len(ids) - self._max_tokens)
            ids = self._tokens(item, text, counts, role)
        if len(ids) > self._max_tokens:
            raise ItemError(
                f"its images need {sum(counts)} tokens, and {self.folder.name} takes {self._max_tokens} in all: "
                "send fewer or smaller images",
                index,
            )
        return _Prepared(ids, pixels, grids)

    def _tokens(self, item: Item, text: str, counts: Sequence[int], role: Role) -> list[int]:
        """Token ids of the whole conversation, every image placeholder as often as the image has tokens."""
        parts = self._load()
        content: list[dict[str, Any]] = [{"type": "image"} for _ in item.images]
        if text or not item.images:
            content.append({"type": "text", "text": text or EMPTY})
        conversation = [
            {
                "role": "system",
                "content": [{"type": "text", "text": self._instruction(item.instruction, role)}],
            },
            {"role": "user", "content": content},
        ]
        shown = parts.tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True)
        ids: list[int] = parts.tokenizer(shown, add_special_tokens=False)["input_ids"]
        found = ids.count(parts.image_id)
        if found != len(counts):
            raise EncoderError(
                f"{self.folder}: the chat template placed {found} images of {len(counts)}: not Qwen3-VL's template"
            )
        wanted = iter(counts)
        return [same for token in ids for same in [token] * (next(wanted) if token == parts.image_id else 1)]

    def _plain(self, text: str) -> str:
        """The text with special tokens in it broken up, so that a document cannot end the user's message."""
        if "<" not in text:
            return text
        for token in self._load().special:
            text = text.replace(token, token[0] + " " + token[1:])
        return text

    def _cut(self, text: str, tokens: int) -> str:
        """The text without about its last ``tokens`` tokens (one more, since the cut may fall in a word)."""
        encoded = self._load().tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        offsets = encoded["offset_mapping"]
        keep = len(offsets) - tokens - 1
        return text[: offsets[keep][0]] if keep > 0 else ""

    def _instruction(self, own: str | None, role: Role) -> str:
        """As upstream: a sentence always ends in punctuation."""
        text = (own or self.entry.prompts.prefix(role) or DEFAULT_INSTRUCTION).strip()
        return text if unicodedata.category(text[-1]).startswith("P") else text + "."

    def _pixels(self, images: Sequence[Image.Image]) -> tuple[Any, Any]:
        if not images:
            return None, []
        limits = self._limits
        resized = [fit(image, limits) for image in images]
        features = self._load().images(resized, do_resize=False, return_tensors="pt")
        return features["pixel_values"], features["image_grid_thw"]

    # ---- batches -------------------------------------------------------------------------------------------

    def _batches(self, prepared: Sequence[_Prepared]) -> Iterator[list[int]]:
        """Rows to run together: of similar length, within the budget of padded tokens, longest first."""
        order = sorted(range(len(prepared)), key=lambda row: -len(prepared[row].ids))
        start = 0
        while start < len(order):
            size = max(1, self._batch_tokens // len(prepared[order[start]].ids))
            yield order[start : start + size]
            start += size

    def _pad(self, batch: Sequence[_Prepared]) -> dict[str, Any]:
        """Right-padded tensors; ``mm_token_type_ids`` (1 at image tokens) decides the image positions."""
        import torch

        parts = self._load()
        device, dtype = parts.model.device, parts.model.dtype
        longest = max(len(one.ids) for one in batch)
        ids = torch.full((len(batch), longest), parts.tokenizer.pad_token_id or 0, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, one in enumerate(batch):
            columns = slice(0, len(one.ids)) if self._pads_right else slice(longest - len(one.ids), longest)
            ids[row, columns] = torch.tensor(one.ids)
            mask[row, columns] = 1
        features: dict[str, Any] = {"input_ids": ids, "attention_mask": mask}
        features["mm_token_type_ids"] = ((ids == parts.image_id) & (mask == 1)).to(torch.int32)
        features = {name: tensor.to(device) for name, tensor in features.items()}
        with_images = [one for one in batch if one.pixels is not None]
        if with_images:
            features["pixel_values"] = torch.cat([one.pixels for one in with_images]).to(device, dtype)
            features["image_grid_thw"] = torch.cat([one.grids for one in with_images]).to(device)
        return features

    @property
    def _pads_right(self) -> bool:
        return self.entry.padding_side != "left"

    # ---- the model -----------------------------------------------------------------------------------------

    def _load(self) -> _Parts:
        if self._loaded is None:
            admit_weights(self.folder, self._accelerator, self.entry.dtype)
            self._loaded = load_checked(self.folder, self._open)
        return self._loaded

    def _open(self) -> _Parts:
        import torch

        from resources.encoders.packed_linear import for_inference

        hf, pil = transformers(), transformers("models.qwen2_vl.image_processing_pil_qwen2_vl")
        folder = str(self.folder)
        dtype = getattr(torch, DTYPES[self.entry.dtype if self._accelerator.device != "cpu" else "fp32"])
        model = hf.Qwen3VLModel.from_pretrained(folder, local_files_only=True, dtype=dtype)
        tokenizer = hf.AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        images = pil.Qwen2VLImageProcessorPil.from_pretrained(folder, local_files_only=True)
        special = frozenset(token for token in tokenizer.get_added_vocab() if token.startswith("<|"))
        image_id = tokenizer.convert_tokens_to_ids(IMAGE_PAD)
        if image_id != model.config.image_token_id:
            raise ValueError(f"its tokenizer's {IMAGE_PAD} is not the configuration's image token")
        return _Parts(
            for_inference(model, self._accelerator.device, int8=self.entry.dtype == "int8"),
            tokenizer,
            images,
            image_id,
            special,
        )


def last_token(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The state of each row's last real token, whichever side is padded: [n, t, h], [n, t] -> [n, h]."""
    import torch

    positions = mask * torch.arange(1, mask.shape[1] + 1, device=mask.device)
    return hidden[torch.arange(len(hidden), device=hidden.device), positions.argmax(dim=1)]


def fit(image: Image.Image, limits: ImageLimits) -> Image.Image:
    """The image resized so that its sides are multiples of ``factor`` and its area is within the limits, its
    proportions kept as far as that allows."""
    smart_resize = transformers("models.qwen2_vl.image_processing_pil_qwen2_vl").smart_resize
    height, width = smart_resize(
        image.height, image.width, limits.factor, limits.min_pixels, limits.max_pixels
    )
    return image if (width, height) == image.size else image.resize((width, height))
