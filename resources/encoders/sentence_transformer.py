"""An encoder over a local sentence-transformers (or plain transformers) model folder."""

from __future__ import annotations

import gc
import json
import logging
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, cast

from resources.encoders.base import Role
from resources.encoders.encoder_config import EncoderConfig
from resources.machine.accelerator import Accelerator
from resources.machine.memory_estimate import Batch, MemoryNeed, Numerics, embedding_need
from resources.models.shape import ModelShape, read_shape, token_positions
from storage.digests import digest_json
from storage.errors import RetuneError
from storage.progress import Progress, no_progress

if TYPE_CHECKING:
    import torch
    from sentence_transformers import SentenceTransformer

    from resources.encoders.base import Vectors

TOKENISE_BLOCK = 8192
"""Texts tokenised and sorted together: bounds the memory of token ids, and is many batches long."""

CPU_BATCH_TOKENS = 2048
"""Padded tokens of one batch on a CPU: beyond this the activations fall out of the cache and it slows down."""

PASSAGE_MODEL = "passage_model.json"
"""In a model's folder: ``digest`` names the model that embeds passages in the same way."""

ROLES: tuple[Role, ...] = ("query", "passage")
BATCH_SETTINGS = "eval.eval_batch_size; prep.mining_batch_size when mining"


class EncoderError(RetuneError, ValueError):
    """A model folder that cannot be used for embedding; the message names the folder and what is wrong."""


class SentenceTransformerEncoder:
    """Embeds with the model in ``folder``, loaded at first use.

    Vectors equal ``SentenceTransformer(folder).encode(prefix + text, normalize_embeddings=True)`` with the maximum
    lengths of ``config``; work is arranged differently: each text is tokenised once, and batches hold texts of
    similar length, as many as ``config.batch_size`` texts of maximum length have tokens.

    Args:
        folder: of a sentence-transformers or transformers model.
        model_digest: names the weights in :meth:`identity`.
        accelerator: where the model runs.
        config: prompts, lengths, precision and batch size.
    """

    def __init__(
        self,
        folder: Path,
        model_digest: str,
        accelerator: Accelerator,
        config: EncoderConfig = EncoderConfig(),  # noqa: B008 (frozen)
    ):
        self.folder = folder
        self.model_digest = model_digest
        self.config = config
        self._accelerator = accelerator
        self._model: SentenceTransformer | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Free the model's memory; the next use loads it again."""
        if self._model is None:
            return
        self._model = None
        gc.collect()
        if self._accelerator.device.startswith("cuda"):
            import torch

            torch.cuda.empty_cache()

    @property
    def dimensions(self) -> int:
        """Length d of the vectors; loads the model."""
        size = self._load().get_embedding_dimension()
        if size is None:
            raise EncoderError(f"{self.folder}: the model does not report the length of its vectors")
        return size

    def identity(self, role: Role) -> str:
        """Digest of weights, prefix, maximum length and precision; does not load the model."""
        config = self.config
        digest = self.model_digest if role == "query" else passage_model(self.folder) or self.model_digest
        return digest_json([digest, config.prefix(role), config.max_length(role), config.precision])

    def embed(self, texts: Sequence[str], role: Role, progress: Progress = no_progress) -> Vectors:
        """Vectors of ``texts``: float32 [len(texts), d], unit length, in the same order.

        Raises:
            EncoderError: the folder has no usable model, or the model gave a vector that is not finite.
        """
        import numpy as np

        vectors = np.empty((len(texts), self.dimensions), dtype=np.float32)
        done = 0
        for start in range(0, len(texts), TOKENISE_BLOCK):
            for rows, features in self._batches(texts[start : start + TOKENISE_BLOCK], role):
                vectors[[start + row for row in rows]] = self._forward(features, role)
                done += len(rows)
                progress(done, len(texts), "texts")
        self._check_finite(vectors)
        return vectors

    def _batches(self, texts: Sequence[str], role: Role) -> Iterator[tuple[list[int], Any]]:
        """(rows of ``texts``, padded features) of each batch of texts of similar length. The longest are first, since a
        batch that does not fit in memory should fail at once; the others are mixed (`evenly_mixed`)."""
        from transformers.data import data_collator

        pad = cast(Any, data_collator).pad_without_fast_tokenizer_warning
        tokenizer = self._load().tokenizer
        prefix, max_length = self.config.prefix(role), self.config.max_length(role)
        encoded = tokenizer(
            [prefix + text for text in texts],
            truncation=True,
            max_length=max_length,
            return_attention_mask=False,
        )
        lengths = [len(ids) for ids in encoded["input_ids"]]
        order = sorted(range(len(texts)), key=lambda row: -lengths[row])
        budget = batch_tokens(self.config.batch_size, max_length, self._accelerator.device)
        batches: list[list[int]] = []
        start = 0
        while start < len(order):
            batches.append(order[start : start + max(1, budget // max(1, lengths[order[start]]))])
            start += len(batches[-1])
        for number in evenly_mixed(len(batches)):
            rows = batches[number]
            features = {key: [values[row] for row in rows] for key, values in encoded.items()}
            yield rows, pad(tokenizer, features, return_tensors="pt")

    def _forward(self, features: Any, role: Role) -> Any:
        import torch

        task = "query" if role == "query" else "document"

        with torch.inference_mode(), self._autocast():
            output = self._load()({**features.to(self._accelerator.device), "modality": "text", "task": task})
            vectors: torch.Tensor = output["sentence_embedding"].float()
            return torch.nn.functional.normalize(vectors, dim=1).cpu().numpy()

    def _autocast(self) -> Any:
        import torch

        if self.config.precision == "fp32":
            return nullcontext()
        return torch.autocast(self._accelerator.device.partition(":")[0], torch.bfloat16)

    def _check_finite(self, vectors: Vectors) -> None:
        import numpy as np

        broken = ~np.isfinite(vectors).all(axis=1)
        if broken.any():
            raise EncoderError(
                f"{self.folder}: the model gave {int(broken.sum())} of {len(vectors)} vectors that are not "
                f"finite, the first for text {int(broken.argmax())}: its weights are broken, or too large "
                f"for {self.config.precision}"
            )

    def _load(self) -> SentenceTransformer:
        if self._model is None:
            check_model_folder(self.folder)
            self._admit()
            self._model = self._load_checked()
            self._check_usable(self._model)
        return self._model

    def _admit(self) -> None:
        """Check that the accelerator has enough memory. Raises `NotEnoughMemoryError`."""
        try:
            shape = read_shape(self.folder)
        except ValueError:
            return  # an unusual model: loading it succeeds or gives the reason
        smaller = (
            self.config.batch_size >> halvings for halvings in range(1, self.config.batch_size.bit_length())
        )
        changes = (
            (f"a batch of {size} ({BATCH_SETTINGS})", self._memory_need(shape, size)) for size in smaller
        )
        self._accelerator.admit(self._memory_need(shape, self.config.batch_size), changes)

    def _memory_need(self, shape: ModelShape, batch_size: int) -> MemoryNeed:
        how = Numerics(
            self._accelerator.device,
            bf16=self.config.precision == "bf16",
            fused=self.config.attn_implementation != "eager",
            weight_bytes=self._weight_bytes,
        )
        return encoder_need(
            shape, batch_size, max(self.config.query_max_length, self.config.passage_max_length), how
        )

    @property
    def _weight_bytes(self) -> int:
        return 4

    def _load_checked(self) -> SentenceTransformer:
        from safetensors import SafetensorError
        from sentence_transformers import SentenceTransformer

        from resources.encoders.packed_linear import for_inference

        attention = self.config.attn_implementation
        try:
            with _quiet_loading():
                model = SentenceTransformer(
                    str(self.folder),
                    device=self._accelerator.device,
                    local_files_only=True,
                    trust_remote_code=self.config.trust_remote_code,
                    model_kwargs={} if attention == "auto" else {"attn_implementation": attention},
                )
        except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
            raise EncoderError(
                f"{self.folder}: sentence-transformers cannot load this model: {error}"
            ) from error
        model = model.float()
        return (
            model.eval()
            if self.config.precision == "bf16"
            else for_inference(model, self._accelerator.device)
        )

    def _check_usable(self, model: SentenceTransformer) -> None:
        modalities = model.modalities
        if "text" not in modalities or "message" in modalities:
            raise EncoderError(f"{self.folder}: the model reads {modalities}, not plain text")
        positions = token_positions(model.config, model.modules())
        for role in ROLES:
            length = self.config.max_length(role)
            if positions is not None and length > positions:
                raise EncoderError(
                    f"{self.folder}: model.{role}_max_length = {length}, but the model has positions for "
                    f"{positions} tokens: set it to {positions} or less"
                )


def passage_model(folder: Path) -> str | None:
    """The digest of the model whose vectors the passages have, where the one in ``folder`` differs from it for
    questions only; None for other models."""
    path = folder / PASSAGE_MODEL
    return json.loads(path.read_text("utf-8"))["digest"] if path.is_file() else None


def evenly_mixed(count: int) -> list[int]:
    """0 to ``count`` - 1, beginning with 0, so that the beginning of the order is spread over all of them: of batches
    sorted by length, the rate and the time left are then true from early on."""
    bits = max(1, (count - 1).bit_length())
    return sorted(range(count), key=lambda number: int(f"{number:0{bits}b}"[::-1], 2))


def batch_tokens(batch_size: int, max_length: int, device: str) -> int:
    """Padded tokens of one batch."""
    tokens = batch_size * max_length
    return min(tokens, CPU_BATCH_TOKENS) if device == "cpu" else tokens


def encoder_need(shape: ModelShape, batch_size: int, length: int, how: Numerics) -> MemoryNeed:
    """What embedding takes in batches of ``batch_size`` texts of at most ``length`` tokens."""
    tokens = max(length, batch_tokens(batch_size, length, how.device))
    return embedding_need(shape, Batch(tokens, length), how)


def check_model_folder(folder: Path) -> None:
    """Check that ``folder`` has the files of a sentence-transformers or transformers model.

    Raises:
        EncoderError: naming the folder and the first file that is missing.
    """
    if not folder.is_dir():
        raise EncoderError(f"{folder}: no such model folder")
    transformer = folder
    modules = folder / "modules.json"
    if modules.exists():
        try:
            transformer = folder / json.loads(modules.read_text("utf-8"))[0]["path"]
        except (ValueError, LookupError, TypeError) as error:
            raise EncoderError(f"{modules}: not a list of modules with a path each: {error}") from error
    for what, names in _NEEDED.items():
        if not any((transformer / name).is_file() for name in names):
            raise EncoderError(
                f"{transformer}: {what} is missing (looked for {', '.join(names)}): "
                "this is not a sentence-transformers or transformers model folder, or its copy is incomplete"
            )


_NEEDED = {
    "the configuration": ("config.json",),
    "the weights": (
        "model.safetensors",
        "model.safetensors.index.json",
        "pytorch_model.bin",
        "pytorch_model.bin.index.json",
    ),
    "the tokenizer": ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "sentencepiece.bpe.model"),
}


@contextmanager
def _quiet_loading() -> Generator[None]:
    """Silences the libraries' own progress bars and messages: callers report their own."""
    from transformers.utils import logging as hf_logging

    logger = logging.getLogger("sentence_transformers")
    bars, level = hf_logging.is_progress_bar_enabled(), logger.level
    hf_logging.disable_progress_bar()
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
        if bars:
            hf_logging.enable_progress_bar()
