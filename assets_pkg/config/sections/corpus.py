"""The settings of the corpus and its passages."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from assets_pkg.config.base import PositiveInt, Settings


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
    """How documents are cut into passages."""

    sentences_per_chunk: PositiveInt
