"""The readers of files that a user writes, as functions of a file's bytes, and small right files to start from."""

from __future__ import annotations

import io
import json
import re
import shutil
import tempfile
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from assets_pkg.config.profile_files import load_profile
from assets_pkg.corpus.front_matter import split_front_matter
from assets_pkg.corpus.metadata_file import read_metadata_file
from assets_pkg.judges.captions import read_texts
from assets_pkg.sdg.own_pairs import load_own_pairs
from resources.compute.targets import read_target
from resources.models.registry import load_registry
from storage.errors import RetuneError
from storage.formats.beir import read_documents, read_qrels, read_queries
from storage.formats.retriever_json import read_corpus, read_retriever_file
from storage.manifest import read_manifest
from tests.fuzz.documents import read_document, right_files

VERSION = "0123456789abcdef"


@dataclass(frozen=True)
class Target:
    """``read`` is given a file ``name`` in an empty folder; ``seeds`` are files that it takes."""

    name: str
    read: Callable[[Path], object]
    seeds: tuple[bytes, ...]


class Unforeseen(Exception):
    """A reader did something else than to return or to raise an error for people."""


def try_target(target: Target, data: bytes) -> str:
    """``read``, or the class of the error for people that the reader raised.

    Raises:
        Unforeseen: another error, or a message that does not name the file or holds control characters.
    """
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    try:
        path = folder / target.name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        target.read(path)
    except RetuneError as error:
        message = str(error)
        if path.name not in message:
            raise Unforeseen(f"the message does not name {path.name}: {message[:300]}") from error
        if any(unicodedata.category(char) in ("Cc", "Cs") for char in re.sub(r"\r?\n|\t", "", message)):
            raise Unforeseen(f"control characters in the message: {message[:300]!r}") from error
        return type(error).__name__
    except Exception as error:
        raise Unforeseen(f"{type(error).__name__}: {str(error)[:300]}") from error
    finally:
        shutil.rmtree(folder)
    return "read"


# ---- readers -----------------------------------------------------------------------------------------------------


def _front_matter(path: Path) -> object:
    try:
        return split_front_matter(path.read_text("utf-8", errors="replace"))
    except RetuneError as error:  # the folder's reader adds the name
        raise RetuneError(f"{path.name}: {error}") from error


def _metadata(path: Path) -> object:
    return read_metadata_file(path, ["a.md", "sub/b.md"])


def _qrels(path: Path) -> object:
    return read_qrels(path.parent.parent)


def _documents(path: Path) -> object:
    return list(read_documents(path.parent))


def _queries(path: Path) -> object:
    return list(read_queries(path.parent))


def _corpus(path: Path) -> object:
    return list(read_corpus(path.parent))


def _pairs(path: Path) -> object:
    out = path.parent / "out"
    out.mkdir()
    return load_own_pairs(path, out)


def _manifest(path: Path) -> object:
    return read_manifest(path.read_bytes(), "checkpoint", VERSION, str(path))


def _environment(path: Path) -> object:
    return read_target(path, "child")


def _profile(path: Path) -> object:
    return load_profile(str(path))


# ---- right files -------------------------------------------------------------------------------------------------


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=1, ensure_ascii=False).encode()


def _lines(*rows: Any) -> bytes:
    return b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)


def _parquet(columns: dict[str, list[Any]]) -> bytes:
    stream = io.BytesIO()
    pq.write_table(pa.table(columns), stream)
    return stream.getvalue()


QUESTION = {
    "question_id": "q0",
    "question": "what",
    "corpus_id": "c",
    "pos_doc": [{"id": "d0", "score": 0.5}],
}
RETRIEVER = {
    "corpus": {"path": "./corpus/"},
    "mining": {"args": {"k": 4}},
    "data": [{**QUESTION, "neg_doc": [{"id": "d1"}]}],
}
PAIR = {"question": "Q", "positive": "A", "negatives": ["N"], "answer": "A", "score": 7.5}
JUDGED = {"overall": {"score": 8, "assessment": "good"}}
RECORD = {
    "file_name": ["a.md"],
    "source_id": "s",
    "text": "one",
    "chunks": [{"text": "one", "chunk_id": 1, "word_count": 1}],
    "deduplicated_qa_pairs": [{"question": "Q", "answer": "A", "segment_ids": [1]}],
    "qa_evaluations": {"evaluations": [JUDGED]},
}
MANIFEST = {
    "asset": "checkpoint",
    "version": VERSION,
    "created": "2026-11-28T00:00:00+00:00",
    "files": {"model/a.bin": {"bytes": 3, "sha256": "0" * 64}},
    "content": "0123",
}
FRONT_MATTER = (
    b"---\ntitle: A pump\ntags: [a, b]\nyear: 2021\nwhen: 2021-05-03\nnested: {a: {b: 1}}\n---\n\n# Text\n"
)
TOML = b'+++\ntitle = "A pump"\nyear = 2021\n+++\n\ntext\n'
CSV = b'file_name,lang,year\na.md,de,2021\nsub/b.md,"it\'s",\n'
ENVIRONMENT = b"""[child]
executor = "subprocess"
python = "python3"
env_vars = {A = "1"}
setup = ["true"]

[wandb]
project = "p"
"""
PROFILE = b"""extends: laptop
artifact_root: ./out
corpus: {corpus_dir: ./docs}
finetune:
  learning_rate: 1.0e-5
"""
REGISTRY = b"""models:
  mine:
    adapter: sentence_transformer
    folder: mine
    dimensions: 32
    pooling: mean
"""

TARGETS = {
    "front_matter": Target("a.md", _front_matter, (FRONT_MATTER, TOML)),
    "metadata_csv": Target("metadata.csv", _metadata, (CSV,)),
    "metadata_jsonl": Target(
        "metadata.jsonl",
        _metadata,
        (
            _lines(
                {"file_name": "a.md", "lang": "de", "tags": ["x"], "year": 2021}, {"file_name": "sub/b.md"}
            ),
        ),
    ),
    "metadata_parquet": Target(
        "metadata.parquet", _metadata, (_parquet({"file_name": ["a.md", "sub/b.md"], "year": [1, None]}),)
    ),
    "qrels": Target("qrels/test.tsv", _qrels, (b"query-id\tcorpus-id\tscore\nq0\td0\t1\nq0\td1\t0\n",)),
    "corpus": Target(
        "corpus.jsonl",
        _documents,
        (_lines({"_id": "d0", "title": "T", "text": "one", "metadata": {"a": 1}}),),
    ),
    "queries": Target("queries.jsonl", _queries, (_lines({"_id": "q0", "text": "what", "metadata": {}}),)),
    "train_json": Target("train.json", read_retriever_file, (_json(RETRIEVER),)),
    "train_parquet": Target("train.parquet", _corpus, (_parquet({"id": ["d0", "d1"], "text": ["a", "b"]}),)),
    "pairs_jsonl": Target("pairs.jsonl", _pairs, (_lines(PAIR, PAIR), _lines(RECORD))),
    "pairs_json": Target("pairs.json", _pairs, (_json([PAIR]), _json([RECORD]))),
    "pairs_parquet": Target("pairs.parquet", _pairs, (_parquet({"question": ["Q"], "positive": ["A"]}),)),
    "captions": Target(
        "captions.json", read_texts, (_json([{"id": "1", "summary": "A cat."}]), _json({"1": "A."}))
    ),
    "captions_lines": Target("captions.jsonl", read_texts, (_lines({"id": 1, "summary": "A cat."}),)),
    "manifest": Target("manifest.json", _manifest, (_json(MANIFEST),)),
    "env_toml": Target("env.toml", _environment, (ENVIRONMENT,)),
    "profile": Target("profile.yaml", _profile, (PROFILE,)),
    "models_yaml": Target("models.yaml", load_registry, (REGISTRY,)),
    **{name.replace(".", "_"): Target(name, read_document, (data,)) for name, data in right_files().items()},
}
