"""How long a registered model's texts may be, and which texts it truncates: by its tokenizer's file alone, without its
weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resources.encoders.factory import Availability
from resources.encoders.registered_text import DEFAULT_TOKENS
from resources.models.entry import ModelEntry
from resources.models.files import read_config, tokenizer_folder
from resources.models.naming import NamedModel, own_settings

if TYPE_CHECKING:
    from tokenizers import Tokenizer

BLOCK = 1024


@dataclass(frozen=True)
class TextLength:
    """The longest text of a model, in ``tokens``, special tokens included, and the prefix of a passage."""

    tokens: int
    tokenizer_file: Path
    prefix: str
    lowercase: bool = False

    def truncated(self, texts: Sequence[str]) -> list[bool]:
        """For each text whether the model reads only a part of it."""
        from tokenizers import Tokenizer

        tokenizer: Tokenizer = Tokenizer.from_file(str(self.tokenizer_file))
        tokenizer.no_truncation()
        tokenizer.no_padding()
        shown = [self.prefix + text for text in texts]
        shown = [text.lower() for text in shown] if self.lowercase else shown
        blocks = (shown[start : start + BLOCK] for start in range(0, len(shown), BLOCK))
        return [
            len(encoding.ids) > self.tokens for block in blocks for encoding in tokenizer.encode_batch(block)
        ]


def text_length(model: Availability) -> TextLength | None:
    """The limit of a model on this machine; None if it is behind a server, which alone knows it, or if its folder does
    not show it (no ``tokenizer.json``; a chat template around the text)."""
    folder, entry = model.location.folder, model.entry
    if folder is None or entry.adapter not in ("sentence_transformer", "dual_tower"):
        return None
    file = tokenizer_folder(folder) / "tokenizer.json"
    if not file.is_file():
        return None
    if entry.adapter == "dual_tower":
        return TextLength(_of_tower(folder, entry), file, entry.prompts.prefix("passage"), entry.lowercase)
    own = own_settings(NamedModel(model.name, folder, entry=entry))
    return TextLength(own.max_length or DEFAULT_TOKENS, file, own.passage or "")


def _of_tower(folder: Path, entry: ModelEntry) -> int:
    section: Any = read_config(folder).get("text_config") or {}
    return entry.max_tokens or int(section.get("max_position_embeddings") or DEFAULT_TOKENS)
