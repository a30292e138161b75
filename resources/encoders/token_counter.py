"""How many tokens a model reads of a text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

from resources.models.files import tokenizer_folder

TokenCounter = Callable[[Sequence[str]], list[int]]
"""Number of tokens of each text with prefix and special tokens, not truncated."""


def token_counter(model: Path, prefix: str, *, trust_remote_code: bool = False) -> TokenCounter:
    """Counts with the tokenizer of the model folder ``model``."""
    from transformers import AutoTokenizer

    tokenizer: Any = cast(Any, AutoTokenizer).from_pretrained(
        str(tokenizer_folder(model)), local_files_only=True, trust_remote_code=trust_remote_code
    )

    def count(texts: Sequence[str]) -> list[int]:
        encoded = tokenizer([prefix + text for text in texts], truncation=False, verbose=False)
        return [len(ids) for ids in encoded["input_ids"]]

    return count
