"""The settings of the corpus and its passages."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from assets_pkg.config.base import LaterSetting, PositiveInt, ProfileOnly, RuntimeOnly, Settings

TEXT_EXTENSIONS = (".txt", ".md", ".text", "")


class CorpusSettings(Settings):
    """What to read: a folder, or ``pydoc://stdlib`` for the running interpreter's own documentation
    (``pydoc://json,re``: of these modules only).

    ``file_extensions``: null for all types that can be read.
    ``metadata_fields``: which of the documents' own fields (YAML front matter, ``metadata.jsonl``) are kept.
    ``text_columns``, ``title_column``, ``id_column``: of tables, whose rows are documents.
    """

    corpus_dir: Annotated[str, ProfileOnly]
    file_extensions: list[str] | None
    min_text_length: Annotated[int, Field(ge=0)]
    num_files: PositiveInt | None
    metadata_fields: list[str] | None
    text_columns: Annotated[list[str] | None, LaterSetting()]
    title_column: Annotated[str | None, LaterSetting()]
    id_column: Annotated[str | None, LaterSetting()]
    max_file_seconds: Annotated[float, Field(gt=0), LaterSetting(120.0)]
    max_file_memory_mb: Annotated[int, Field(ge=64), LaterSetting(2000)]
    reader_processes: Annotated[PositiveInt | None, RuntimeOnly]

    def extensions(self, readable: Collection[str]) -> frozenset[str]:
        """The extensions of documents, in lower case; ``readable`` are those of all types that can be read."""
        chosen = readable if self.file_extensions is None else self.file_extensions
        return frozenset(extension.lower() for extension in chosen)

    def decisive(self) -> dict[str, Any]:
        """The settings that decide a result. All types count as the four extensions that were the default: a folder of
        such files has the same documents, and any other has another fingerprint."""
        values = super().decisive()
        if self.file_extensions is None:
            values["file_extensions"] = list(TEXT_EXTENSIONS)
        return values


class PassageSettings(Settings):
    """How documents are cut into passages: at most so many sentences, and so many tokens of the base model.

    ``max_chunk_tokens``: ``model`` is the model's ``passage_max_length``; null: 1,600 characters, as before there was
    this setting.
    """

    sentences_per_chunk: PositiveInt
    chunk_overlap_sentences: Annotated[int, Field(ge=0), LaterSetting(0)]
    max_chunk_tokens: Annotated[PositiveInt | Literal["model"] | None, LaterSetting()]
    leave_out_repeated: Annotated[bool, LaterSetting(True)]

    @model_validator(mode="after")
    def _passages_go_on(self) -> PassageSettings:
        if self.chunk_overlap_sentences >= self.sentences_per_chunk:
            raise ValueError(
                f"chunk_overlap_sentences = {self.chunk_overlap_sentences}: must be < sentences_per_chunk = "
                f"{self.sentences_per_chunk}"
            )
        return self


class TokenLimitSettings(Settings):
    """What decides how many tokens a passage has, and may have."""

    max_tokens: PositiveInt
    passage_prefix: str
