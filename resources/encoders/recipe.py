"""An encoder as a value: how another process or machine makes the same one."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from resources.encoders.base import Encoder
from resources.encoders.cached import CachedEncoder
from resources.encoders.encoder_config import EncoderConfig
from resources.encoders.onnx import OnnxEncoder
from resources.encoders.sentence_transformer import SentenceTransformerEncoder
from resources.machine.accelerator import Accelerator, find_accelerator
from resources.models.files import EXPORTED_FILE
from storage.embedding_cache import EmbeddingCache


@dataclass(frozen=True)
class EncoderRecipe:
    """An encoder as a value that can be sent to another process or machine: the model's ``folder``, the digest of its
    weights, and how it embeds; ``device`` and ``check_memory`` as for `find_accelerator`."""

    folder: str
    model_digest: str
    config: EncoderConfig
    device: str = "auto"
    check_memory: bool = True

    def make(self, accelerator: Accelerator) -> SentenceTransformerEncoder | OnnxEncoder:
        """The encoder on this accelerator; its weights are loaded when first needed. An exported model runs on the
        CPU."""
        if (Path(self.folder) / EXPORTED_FILE).is_file():
            return OnnxEncoder(Path(self.folder), self.model_digest)
        return SentenceTransformerEncoder(Path(self.folder), self.model_digest, accelerator, self.config)

    def open(self) -> Encoder:
        """The encoder on the caller's machine."""
        return self.make(find_accelerator(self.device, check_memory=self.check_memory))

    @contextmanager
    def open_cached(self, cache: Path, accelerator: Accelerator | None = None) -> Generator[CachedEncoder]:
        """The encoder on this accelerator (by default the one that the recipe names) with the vectors cached in the
        folder ``cache``; its weights are freed at the end."""
        found = accelerator or find_accelerator(self.device, check_memory=self.check_memory)
        with closing(self.make(found)) as encoder:
            yield CachedEncoder(encoder, EmbeddingCache(cache))

    def dump(self) -> dict[str, Any]:
        """The recipe as JSON types; :meth:`load` reads it."""
        return asdict(self)

    @classmethod
    def load(cls, payload: Mapping[str, Any]) -> EncoderRecipe:
        values: dict[str, Any] = {**payload, "config": EncoderConfig(**payload["config"])}
        return cls(**values)
