"""Small corpora, an encoder that needs no model, and one call that runs the stage."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from assets_pkg.config.profile_files import load_profile
from assets_pkg.config.sections.sdg import SdgSettings
from assets_pkg.sdg.llm import chat_config, generate_with_llm
from resources.chat_model.client import ChatModel
from resources.encoders.base import Role
from storage.artifacts import Corpus, Passages
from storage.digests import passage_id
from storage.progress import Progress, no_progress

KEY = "nvapi-0123456789-secret"


class HashEncoder:
    """Equal texts have equal vectors, others nearly orthogonal ones."""

    dimensions = 64

    def identity(self, role: Role) -> str:
        return f"hash-{role}"

    def embed(
        self, texts: Sequence[str], role: Role, progress: Progress = no_progress
    ) -> np.ndarray[Any, np.dtype[np.float32]]:
        rows = [np.random.default_rng(_seed(text)).standard_normal(self.dimensions) for text in texts]
        vectors = np.array(rows, np.float32).reshape(-1, self.dimensions)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _seed(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8])


def make_corpus(
    folder: Path, count: int, changed: Iterable[int] = (), segments: int = 4
) -> tuple[Corpus, Passages]:
    """``count`` documents of ``segments`` passages; those in ``changed`` say something else."""
    folder.mkdir(parents=True, exist_ok=True)
    documents, passages, changed = [], [], set(changed)
    for number in range(count):
        doc_id = f"doc{number:05}.txt"
        word = "changed" if number in changed else "plain"
        texts = [f"The {word} part {part} of document {number} says so." for part in range(segments)]
        documents.append({"doc_id": doc_id, "title": f"Document {number}", "text": "\n\n".join(texts)})
        passages += [_passage(doc_id, index, text) for index, text in enumerate(texts)]
    _write(documents, folder / "documents.parquet")
    _write(passages, folder / "passages.parquet")
    return Corpus(folder, "raw_corpus", "v"), Passages(folder, "passages", "v")


def _write(rows: list[dict[str, Any]], path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=10_000)


def _passage(doc_id: str, index: int, text: str) -> dict[str, Any]:
    words = len(text.split())
    return {
        "passage_id": passage_id(text),
        "doc_id": doc_id,
        "chunk_id": index + 1,
        "title": doc_id,
        "section": "",
        "text": text,
        "start": index * words,
        "end": (index + 1) * words,
        "sentence_count": 1,
        "word_count": words,
    }


@cache
def _default_settings() -> dict[str, Any]:
    return load_profile("default").sdg.model_dump()


def sdg_settings(base_url: str, **changes: Any) -> SdgSettings:
    """The default profile's settings against an endpoint of ours."""
    return SdgSettings(
        **{**_default_settings(), "base_url": base_url, "max_parallel_requests_for_gen": 8, **changes}
    )


def generate(
    artifacts: tuple[Corpus, Passages],
    settings: SdgSettings,
    folder: Path,
    progress: Progress = no_progress,
    key: str | None = KEY,
) -> Path:
    """Run the stage with the answer cache beside ``folder``; returns ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    chat = ChatModel(chat_config(settings, folder.parent / "answers.sqlite"), key)
    generate_with_llm(*artifacts, settings, chat, HashEncoder(), folder, progress)
    return folder
