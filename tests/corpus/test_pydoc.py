"""The standard library's documentation against ``inspect``, which imports what Retune only reads."""

from __future__ import annotations

import asyncio
import csv
import heapq
import inspect
import itertools
import json
import math
import string
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from assets_pkg.config.sections.corpus import CorpusSettings
from assets_pkg.corpus.segmentation import split_sections
from assets_pkg.corpus.sources import read_corpus, source_fingerprint
from storage.artifacts import Corpus, Document

pytestmark = pytest.mark.slow

SETTINGS = CorpusSettings(
    corpus_dir="pydoc://stdlib",
    file_extensions=[".txt"],
    min_text_length=50,
    num_files=None,
    metadata_fields=None,
    text_columns=None,
    title_column=None,
    id_column=None,
    max_file_seconds=120,
    max_file_memory_mb=2000,
    reader_processes=1,
)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    out = tmp_path_factory.mktemp("stdlib")
    read_corpus(SETTINGS, out)
    return Corpus(out, "raw_corpus", "v")


@pytest.fixture(scope="module")
def documents(corpus: Corpus) -> dict[str, Document]:
    return {document.doc_id: document for document in corpus.documents()}


def below(document: Document) -> dict[str, str]:
    """Text under each heading, by the heading's name without arguments."""
    return {
        section.heading.partition("(")[0]: document.text[section.body : section.end].strip()
        for section in split_sections(document.text)
    }


@pytest.mark.parametrize("module", [textwrap, heapq, string, math, itertools, csv, json])
def test_every_public_docstring_is_there(module: object, documents: dict[str, Document]) -> None:
    name = module.__name__  # type: ignore[attr-defined]
    found = below(documents[name])
    own = {
        member: value
        for member, value in vars(module).items()
        if (inspect.isclass(value) or inspect.isroutine(value))
        and not member.startswith("_")
        and value.__module__ == name
        and value.__doc__
    }
    assert own
    for member, value in own.items():
        doc = inspect.cleandoc(value.__doc__)
        text = found[f"{name}.{member}"]
        # C docstrings may open with their signature, which moves into the heading.
        assert doc.endswith(text)
        assert doc == text or doc.startswith(member)


def test_submodules_methods_and_arguments(documents: dict[str, Document]) -> None:
    text = documents["asyncio"].text
    assert "## asyncio.runners.run(main, *, debug=None)\n" in text or "asyncio.runners.run(" in text
    assert (
        inspect.cleandoc(asyncio.Queue.put.__doc__ or "")
        in below(documents["asyncio"])["asyncio.queues.Queue.put"]
    )
    assert "\n## math.gcd(*integers)\n" in documents["math"].text
    assert documents["math"].text.startswith("# math\n\n")


def test_which_modules(documents: dict[str, Document], corpus: Corpus) -> None:
    assert documents.keys() <= sys.stdlib_module_names
    assert not {"antigravity", "this", "idlelib", "turtledemo", "test"} & documents.keys()
    assert not any(name.startswith("_") for name in documents)
    assert len(documents) > 150
    assert corpus.summary()["documents"] == len(documents)
    assert list(documents) == sorted(documents)
    assert source_fingerprint(SETTINGS) == corpus.summary()["fingerprint"]


def test_another_process_agrees_and_imports_nothing(tmp_path: Path, corpus: Corpus) -> None:
    program = (
        "import sys; from pathlib import Path; from assets_pkg.config.sections.corpus import CorpusSettings\n"
        "from assets_pkg.corpus.sources import read_corpus\n"
        "sys.excepthook = lambda *_: None\n"
        f"read_corpus(CorpusSettings.model_validate({SETTINGS.model_dump()!r}), Path({str(tmp_path)!r}))\n"
        "print([n for n in ('turtle', 'tkinter', '_tkinter', 'antigravity', 'this') if n in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONHASHSEED": "7"},
    )
    assert done.stdout.strip() == "[]"
    assert (tmp_path / "documents.parquet").read_bytes() == (corpus.path / "documents.parquet").read_bytes()


def test_single_modules_are_the_same_documents(documents: dict[str, Document], tmp_path: Path) -> None:
    read_corpus(SETTINGS.model_copy(update={"corpus_dir": "pydoc://textwrap, math"}), tmp_path)
    chosen = list(Corpus(tmp_path, "raw_corpus", "v").documents())
    assert chosen == [documents["math"], documents["textwrap"]]
