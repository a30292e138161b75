"""How a sentence-transformers model embeds, and how another process makes the same encoder."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from resources.encoders.base import Encoder, Role
from resources.encoders.cached import CachedEncoder
from resources.machine.accelerator import Accelerator, find_accelerator
from storage.embedding_cache import EmbeddingCache

if TYPE_CHECKING:
    from resources.encoders.sentence_transformer import SentenceTransformerEncoder

Precision = Literal["fp32", "bf16"]


@dataclass(frozen=True)
class EncoderConfig:
    """How texts are embedded with a model, whatever model and machine.

    Attributes:
        query_prefix, passage_prefix: put before every text of the role; may be empty.
        query_max_length, passage_max_length: in tokens, special tokens included; longer texts are truncated.
        attn_implementation: of transformers; ``auto`` leaves the choice to it.
        precision: ``bf16`` runs under autocast, with weights and pooling kept in float32.
        batch_size: texts of maximum length in one batch; of shorter texts a batch holds more.
    """

    query_prefix: str = ""
    passage_prefix: str = ""
    query_max_length: int = 512
    passage_max_length: int = 512
    attn_implementation: str = "auto"
    precision: Precision = "fp32"
    batch_size: int = 128

    def prefix(self, role: Role) -> str:
        return self.query_prefix if role == "query" else self.passage_prefix

    def max_length(self, role: Role) -> int:
        return self.query_max_length if role == "query" else self.passage_max_length


@dataclass(frozen=True)
class EncoderRecipe:
    """An encoder as a value that can be sent to another process or machine: the model's ``folder``, the digest of its
    weights, and how it embeds; ``device`` and ``check_memory`` as for `find_accelerator`."""

    folder: str
    model_digest: str
    config: EncoderConfig
    device: str = "auto"
    check_memory: bool = True

    def make(self, accelerator: Accelerator) -> SentenceTransformerEncoder:
        """The encoder on this accelerator; its weights are loaded when first needed."""
        from resources.encoders.sentence_transformer import SentenceTransformerEncoder

        return SentenceTransformerEncoder(Path(self.folder), self.model_digest, accelerator, self.config)

    def open(self) -> Encoder:
        """The encoder on the caller's machine."""
        return self.make(find_accelerator(self.device, check_memory=self.check_memory))

    @contextmanager
    def open_cached(self, cache: Path, accelerator: Accelerator | None = None) -> Generator[CachedEncoder]:
        """The encoder on this accelerator (by default the one that the recipe names) with the vectors cached in the
        folder ``cache``; its weights are freed at the end."""
        found = accelerator or find_accelerator(self.device, check_memory=self.check_memory)
        with self.make(found) as encoder:
            yield CachedEncoder(encoder, EmbeddingCache(cache))

    def dump(self) -> dict[str, Any]:
        """The recipe as JSON types; :meth:`load` reads it."""
        return asdict(self)

    @classmethod
    def load(cls, payload: Mapping[str, Any]) -> EncoderRecipe:
        values: dict[str, Any] = {**payload, "config": EncoderConfig(**payload["config"])}
        return cls(**values)
