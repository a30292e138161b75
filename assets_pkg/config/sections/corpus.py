"""The settings of the corpus and its passages."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from assets_pkg.config.base import LaterSetting, PositiveInt, Settings


class CorpusSettings(Settings):
    """What to read: a folder, or ``pydoc://stdlib`` for the running interpreter's own documentation
    (``pydoc://json,re``: of these modules only).

    ``metadata_fields``: which of the documents' own fields (YAML front matter, ``metadata.jsonl``) are kept.
    """

    corpus_dir: str
    file_extensions: list[str]
    min_text_length: Annotated[int, Field(ge=0)]
    num_files: PositiveInt | None
    metadata_fields: list[str] | None


class PassageSettings(Settings):
    """How documents are cut into passages: at most so many sentences, and so many tokens of the base model.

    ``max_chunk_tokens``: ``model`` is the model's ``passage_max_length``; null: 1,600 characters, as before there was
    this setting.
    """

    sentences_per_chunk: PositiveInt
    chunk_overlap_sentences: Annotated[int, Field(ge=0), LaterSetting(0)]
    max_chunk_tokens: Annotated[PositiveInt | Literal["model"] | None, LaterSetting()]

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
