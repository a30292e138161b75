"""Small corpora for tests."""

from __future__ import annotations

import json
from pathlib import Path

from assets_pkg.config.profile_files import load_profile
from assets_pkg.config.sections.corpus import PassageSettings
from assets_pkg.corpus.segmentation import title_of
from storage.artifacts import Corpus, Document
from storage.parquet import RowWriter


def write_corpus(folder: Path, texts: dict[str, str]) -> Corpus:
    """A corpus artifact of these texts, written without reading files."""
    folder.mkdir(parents=True)
    with RowWriter(folder / "documents.parquet", Document) as writer:
        for name, text in sorted(texts.items()):
            writer.add(Document(name, title_of(text, Path(name).stem), text))
    (folder / "summary.json").write_text(json.dumps({"documents": len(texts)}))
    return Corpus(folder, "raw_corpus", "v")


def chunks(sentences: int, *overrides: str) -> PassageSettings:
    """The settings of passages with so many sentences."""
    return load_profile("laptop", [f"sentences_per_chunk={sentences}", *overrides]).passages
