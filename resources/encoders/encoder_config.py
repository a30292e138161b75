"""How an encoder is made, as a value that can be handed to another process or machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from resources.encoders.base import Encoder
from resources.encoders.sentence_transformer import Precision, SentenceTransformerEncoder
from resources.machine.accelerator import Accelerator, find_accelerator


@dataclass(frozen=True)
class EncoderRecipe:
    """All that :class:`SentenceTransformerEncoder` needs but the machine; ``folder`` is the model's."""

    folder: str
    model_digest: str
    query_prefix: str
    passage_prefix: str
    query_max_length: int
    passage_max_length: int
    attn_implementation: str
    batch_size: int
    precision: Precision = "fp32"
    device: str = "auto"
    check_memory: bool = True

    def make(self, accelerator: Accelerator) -> SentenceTransformerEncoder:
        """The encoder on this accelerator; its weights are loaded when first needed."""
        beside = ("folder", "device", "check_memory")
        arguments = {name: value for name, value in vars(self).items() if name not in beside}
        return SentenceTransformerEncoder(Path(self.folder), **arguments, accelerator=accelerator)

    def open(self) -> Encoder:
        """The encoder on the machine of the caller."""
        return self.make(find_accelerator(self.device, check_memory=self.check_memory))

    def dump(self) -> dict[str, Any]:
        """Of JSON's types; :meth:`load` reads it."""
        return asdict(self)

    @classmethod
    def load(cls, told: Mapping[str, Any]) -> EncoderRecipe:
        return cls(**told)
