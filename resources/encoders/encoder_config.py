"""How a sentence-transformers model embeds: prompts, lengths, precision, batch size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from resources.encoders.base import Role

Precision = Literal["fp32", "bf16"]


@dataclass(frozen=True)
class EncoderConfig:
    """How texts are embedded with a model, whatever model and machine.

    Attributes:
        query_prefix, passage_prefix: put before every text of the role; may be empty.
        query_max_length, passage_max_length: in tokens, special tokens included; longer texts are truncated.
        attn_implementation: of transformers; ``auto`` leaves the choice to it.
        precision: ``bf16`` runs under autocast, with weights and pooling kept in float32.
        trust_remote_code: the model's own Python code is run (whoever wrote it can do what this user can).
        batch_size: texts of maximum length in one batch; of shorter texts a batch holds more.
    """

    query_prefix: str = ""
    passage_prefix: str = ""
    query_max_length: int = 512
    passage_max_length: int = 512
    attn_implementation: str = "auto"
    precision: Precision = "fp32"
    trust_remote_code: bool = False
    batch_size: int = 128

    def prefix(self, role: Role) -> str:
        return self.query_prefix if role == "query" else self.passage_prefix

    def max_length(self, role: Role) -> int:
        return self.query_max_length if role == "query" else self.passage_max_length
