"""Text to token ids; truncation is done here, without changing the state of the shared tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from assets_pkg.nim.manifest import TOKENIZER_FILE, FolderError, ServedModelManifest

Role = Literal["query", "passage"]
Truncate = Literal["END", "START", "NONE"]
TokenIds = npt.NDArray[np.int64]

READ_AHEAD_CHARS_PER_TOKEN = 16
"""When truncating, so many characters per token are tokenised first: nearly always enough for a full sequence."""

MAX_CHARS_PER_TOKEN = 250
"""The most characters of a text that are read, per token of the maximum length: tokenising is linear in them."""

PROBE = "a"


class TextError(Exception):
    """One text cannot be embedded; ``index`` is its index among the texts."""

    def __init__(self, index: int, message: str) -> None:
        super().__init__(message)
        self.index = index


class TooLongError(TextError):
    """A text is longer than the model's maximum, and must not be truncated."""


@dataclass(frozen=True)
class _Prefix:
    """A role's prefix, and the tokens of it that begin every text (its trailing space may join the text's first)."""

    text: str
    ids: list[int]


class TextTokenizer:
    """The folder's tokenizer, with the role prefixes and the model's maximum length.

    Thread-safe: nothing changes after construction.
    """

    def __init__(self, folder: Path, manifest: ServedModelManifest, max_length: int | None = None) -> None:
        path = folder / TOKENIZER_FILE
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the binding raises bare Exception
            raise FolderError(f"{path} cannot be read: {error}") from error
        # A saved tokenizer may carry the truncation and padding of its training.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        if max_length is not None and max_length > manifest.max_length:
            raise FolderError(
                f"the maximum length {max_length} is more than the {manifest.max_length} tokens of {folder}"
            )
        self.max_length = max_length or manifest.max_length
        self._head, self._tail = self._special_tokens(path)
        self._capacity = self.max_length - len(self._head) - len(self._tail)
        if self._capacity < 1:
            raise FolderError(
                f"{path} adds more special tokens than the maximum length {self.max_length} holds"
            )
        self._prefixes: dict[Role, _Prefix] = {
            "query": self._read_prefix(manifest.query_prefix),
            "passage": self._read_prefix(manifest.passage_prefix),
        }

    def encode(self, texts: Sequence[str], role: Role, truncate: Truncate = "END") -> list[TokenIds]:
        """Token ids of each text behind its role's prefix, special tokens included.

        Each array is int64 [length], ``1 <= length <= max_length``. END keeps the beginning of a long text,
        START its end (and the prefix). A text in which the tokenizer reads nothing, such as one of control
        characters, has the prefix and the special tokens alone, as under sentence-transformers.

        Raises:
            TooLongError: a text is longer than ``max_length`` and ``truncate`` is NONE.
            TextError: a text gives no token at all, since there is neither a prefix nor a special token.
        """
        prefix = self._prefixes[role]
        contents = self._contents(texts, prefix, truncate)
        return [self._assemble(index, content, prefix, truncate) for index, content in enumerate(contents)]

    def _contents(self, texts: Sequence[str], prefix: _Prefix, truncate: Truncate) -> list[list[int]]:
        """Each text's token ids without special tokens, at least as many as are kept."""
        if truncate == "NONE":
            self._refuse_huge(texts)
            return self._encode([prefix.text + text for text in texts])
        reach = self.max_length * READ_AHEAD_CHARS_PER_TOKEN
        contents = self._encode([prefix.text + _cut(text, reach, truncate) for text in texts])
        for index, text in enumerate(texts):
            # The tokens around the cut may differ from the whole text's, so more are needed than are kept.
            if len(text) > reach and len(contents[index]) <= self.max_length + READ_AHEAD_CHARS_PER_TOKEN:
                whole = _cut(text, self.max_length * MAX_CHARS_PER_TOKEN, truncate)
                contents[index] = self._encode([prefix.text + whole])[0]
        return contents

    def _refuse_huge(self, texts: Sequence[str]) -> None:
        limit = self.max_length * MAX_CHARS_PER_TOKEN
        for index, text in enumerate(texts):
            if len(text) > limit:
                size = f"{len(text)} characters"
                raise TooLongError(
                    index, f"Input length {size} exceeds maximum allowed token size {self.max_length}"
                )

    def _assemble(self, index: int, content: list[int], prefix: _Prefix, truncate: Truncate) -> TokenIds:
        if len(content) > self._capacity:
            if truncate == "NONE":
                length = len(content) + len(self._head) + len(self._tail)
                raise TooLongError(
                    index, f"Input length {length} exceeds maximum allowed token size {self.max_length}"
                )
            content = content[: self._capacity] if truncate == "END" else self._keep_end(content, prefix)
        ids = self._head + content + self._tail
        if not ids:
            raise TextError(index, f"input[{index}] has no text that the model can read")
        return np.array(ids, dtype=np.int64)

    def _keep_end(self, content: list[int], prefix: _Prefix) -> list[int]:
        """The prefix, which states the role, and the last tokens of the text."""
        kept = len(prefix.ids)
        if content[:kept] != prefix.ids or kept >= self._capacity:
            return content[-self._capacity :]
        return prefix.ids + content[len(content) - (self._capacity - kept) :]

    def _encode(self, texts: list[str]) -> list[list[int]]:
        return [
            encoding.ids for encoding in self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        ]

    def _special_tokens(self, path: Path) -> tuple[list[int], list[int]]:
        """The ids that the tokenizer adds before and after every text."""
        plain = self._tokenizer.encode(PROBE, add_special_tokens=False).ids
        framed = self._tokenizer.encode(PROBE).ids
        for start in range(len(framed) - len(plain) + 1):
            if framed[start : start + len(plain)] == plain:
                return framed[:start], framed[start + len(plain) :]
        raise FolderError(f"{path} changes a text's tokens when it adds special tokens")

    def _read_prefix(self, text: str) -> _Prefix:
        ids = self._encode([text.rstrip()])[0] if text else []
        return _Prefix(text, ids)


def _cut(text: str, limit: int, truncate: Truncate) -> str:
    return text[:limit] if truncate == "END" else text[-limit:]
