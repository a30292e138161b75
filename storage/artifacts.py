"""The typed artifacts that stages hand to each other.

An artifact is one immutable version in the store: a folder whose files a class here knows how to read. The
class also lists the *content* files, whose bytes determine the data version; all others (logs, pictures,
summaries) accompany it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

PAGES_FILE, SKIPPED_FILE, WARNINGS_FILE = "pages.parquet", "skipped.jsonl", "warnings.jsonl"


@dataclass(frozen=True)
class Artifact:
    """One published version of one asset."""

    path: Path
    asset: str
    version: str

    content: ClassVar[tuple[str, ...]] = ("*",)
    parquet: ClassVar[str] = ""
    """The Parquet file that holds its rows, if it is a table."""
    counted: ClassVar[str] = ""
    """Else the figure of its summary that says how many things it holds, if there is one."""

    @classmethod
    def is_content(cls, name: str) -> bool:
        """Whether the file ``name`` (POSIX path inside the version) counts towards the data version."""
        return any(fnmatchcase(name, pattern) for pattern in cls.content)

    def summary(self) -> dict[str, Any]:
        """The stage's own figures about this version (``summary.json``)."""
        return json.loads((self.path / "summary.json").read_text("utf-8"))

    def row_count(self) -> int | None:
        """How many rows or things it holds; None where that is no question."""
        if file := self._parquet_file():
            return file.metadata.num_rows
        return self.summary().get(self.counted) if self.counted else None

    def columns(self) -> dict[str, str]:
        """The columns of its table with their types (Arrow's names); empty if it is none."""
        file = self._parquet_file()
        return {field.name: str(field.type) for field in file.schema_arrow} if file else {}

    def _parquet_file(self) -> Any:
        """Its table's file, of which only the end was read; None if it is no table."""
        path = self.path / self.parquet
        if not (self.parquet and path.exists()):
            return None
        import pyarrow.parquet as pq

        with pq.ParquetFile(path) as file:
            return file


@dataclass(frozen=True)
class Document:
    """One source document. ``doc_id`` is its corpus-relative path with ``/``; ``metadata`` is a JSON object of the
    user's own fields."""

    doc_id: str
    title: str
    text: str
    metadata: str = "{}"


@dataclass(frozen=True)
class Corpus(Artifact):
    """``documents.parquet``: rows of :class:`Document` (columns of strings), ordered by ``doc_id``;
    ``pages.parquet``, if documents have pages: rows of ``doc_id`` and ``starts``, the offsets in its text at which
    they begin; ``skipped.jsonl``: rows of ``{doc_id, reason}``; ``warnings.jsonl``: rows of ``{doc_id, warning}``."""

    content: ClassVar[tuple[str, ...]] = ("documents.parquet", PAGES_FILE)
    parquet: ClassVar[str] = "documents.parquet"

    def documents(self) -> Iterator[Document]:
        for row in _rows(self.path / self.parquet):
            yield Document(**row)

    def pages(self) -> dict[str, list[int]]:
        """The offsets at which the pages begin, of each document that has pages."""
        if not (self.path / PAGES_FILE).exists():
            return {}
        return {row["doc_id"]: row["starts"] for row in _rows(self.path / PAGES_FILE)}

    def skipped(self) -> list[dict[str, str]]:
        """What was left out, with the reason (an earlier version of Retune wrote one list)."""
        if (self.path / "skipped.json").exists():
            return json.loads((self.path / "skipped.json").read_text("utf-8"))
        return _json_lines(self.path / SKIPPED_FILE)

    def warnings(self) -> list[dict[str, str]]:
        """What is to be known of documents that were read, ``{doc_id, warning}``."""
        return _json_lines(self.path / WARNINGS_FILE)


def _json_lines(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


@dataclass(frozen=True)
class Passage:
    """One retrieval unit of a document.

    ``passage_id`` is a content id (two equal texts share it), ``chunk_id`` counts from 1 inside the document,
    ``section`` is the heading that the passage stands under, ``start``/``end`` are word positions, ``metadata``
    is its document's.
    """

    passage_id: str
    doc_id: str
    chunk_id: int
    title: str
    section: str
    text: str
    start: int
    end: int
    sentence_count: int
    word_count: int
    metadata: str = "{}"


@dataclass(frozen=True)
class Passages(Artifact):
    """``passages.parquet``: one row per :class:`Passage`, ordered by document and ``chunk_id``."""

    content: ClassVar[tuple[str, ...]] = ("passages.parquet",)
    parquet: ClassVar[str] = "passages.parquet"

    def passages(self) -> Iterator[Passage]:
        for row in _rows(self.path / self.parquet):
            yield Passage(**row)

    def count(self) -> int:
        return self.row_count() or 0

    def sample(self, size: int) -> list[Passage]:
        """At most ``size`` passages, evenly spaced through the corpus."""
        step = max(1, self.count() // size)
        return list(islice(self.passages(), 0, step * size, step))


@dataclass(frozen=True)
class QAPairs(Artifact):
    """``qa_records.jsonl``: the recipe's records, one per document (``storage.formats.qa_records``)."""

    content: ClassVar[tuple[str, ...]] = ("qa_records.jsonl",)
    counted: ClassVar[str] = "pairs"

    @property
    def records(self) -> Path:
        return self.path / "qa_records.jsonl"


@dataclass(frozen=True)
class TrainingSet(Artifact):
    """``train.json``, ``val.json`` and ``corpus/`` in the recipe's retriever format; ``splits.json``;
    ``rejected.jsonl``: the rejected pairs."""

    content: ClassVar[tuple[str, ...]] = (
        "train.json",
        "val.json",
        "splits.json",
        "corpus/*",
        "rejected.jsonl",
    )
    counted: ClassVar[str] = "train_questions"

    def held_out_passages(self) -> frozenset[str]:
        """Ids of passages that training must not use; empty for a set without ``splits.json``."""
        path = self.path / "splits.json"
        if not path.exists():
            return frozenset()
        return frozenset(json.loads(path.read_text("utf-8"))["held_out_passages"])


@dataclass(frozen=True)
class MinedTrainSet(Artifact):
    """``train_mined.automodel.json``, ``train_mined.automodel_unrolled.json`` and ``corpus/``."""

    content: ClassVar[tuple[str, ...]] = ("train_mined.automodel*.json", "val.json", "corpus/*")
    counted: ClassVar[str] = "questions"

    @property
    def unrolled(self) -> Path:
        return self.path / "train_mined.automodel_unrolled.json"


@dataclass(frozen=True)
class EvalSet(Artifact):
    """``eval_beir/{corpus.jsonl,queries.jsonl,qrels/test.tsv}``: a BEIR folder."""

    content: ClassVar[tuple[str, ...]] = ("eval_beir/*",)
    counted: ClassVar[str] = "test_questions"

    @property
    def beir(self) -> Path:
        return self.path / "eval_beir"


@dataclass(frozen=True)
class Checkpoint(Artifact):
    """``model/consolidated/``: a folder that ``SentenceTransformer(path)`` loads. The base model and every
    fine-tuned one have this type; the version is the model digest."""

    content: ClassVar[tuple[str, ...]] = ("model/consolidated/*",)

    @classmethod
    def is_content(cls, name: str) -> bool:
        return super().is_content(name) and not name.endswith((".md", ".gitattributes"))

    @property
    def model(self) -> Path:
        return self.path / "model" / "consolidated"


CHECKPOINTS = ("checkpoint", "base_model", "promoted_model")
"""The assets that make a :class:`Checkpoint`. ``promoted_model`` makes one only of a model that a user brings; else it
points at another's."""


@dataclass(frozen=True)
class EvalReport(Artifact):
    """``eval_results.json`` in the recipe's shape, ``comparison.json`` with intervals, per-query scores."""

    content: ClassVar[tuple[str, ...]] = ("eval_results.json", "comparison.json")

    def results(self) -> dict[str, Any]:
        return json.loads((self.path / "eval_results.json").read_text("utf-8"))

    def comparison(self) -> dict[str, Any]:
        return json.loads((self.path / "comparison.json").read_text("utf-8"))

    def questions(self) -> dict[str, Any]:
        """What its questions are; empty in reports of earlier versions."""
        return _optional(self.path / "questions.json", {})


@dataclass(frozen=True)
class OnnxModel(Artifact):
    """``onnx/``: a folder that the embedding server serves alone (``retune_model.json`` names the model)."""

    content: ClassVar[tuple[str, ...]] = ("onnx/*",)

    @property
    def folder(self) -> Path:
        return self.path / "onnx"

    def manifest(self) -> dict[str, Any]:
        return json.loads((self.folder / "retune_model.json").read_text("utf-8"))


@dataclass(frozen=True)
class TensorrtEngine(Artifact):
    """``model.plan``: an engine for one kind of GPU and one version of TensorRT."""

    content: ClassVar[tuple[str, ...]] = ("model.plan",)


@dataclass(frozen=True)
class CorpusEmbeddings(Artifact):
    """``embeddings.parquet``: ``passage_id`` and ``vector`` (float32 [d], unit length), one row per passage in
    the passages' order; ``embeddings.json`` names model digest, passages version, dimensions and count."""

    content: ClassVar[tuple[str, ...]] = ("embeddings.json",)
    parquet: ClassVar[str] = "embeddings.parquet"

    def describe(self) -> dict[str, Any]:
        return json.loads((self.path / "embeddings.json").read_text("utf-8"))


@dataclass(frozen=True)
class VectorIndex(Artifact):
    """``lancedb/`` with the table ``passages``; ``index.json`` is the index manifest: model digest, passages
    version, dimensions, prefix, counts and index type."""

    content: ClassVar[tuple[str, ...]] = ("index.json",)

    def row_count(self) -> int | None:
        return self.describe()["rows"]

    def describe(self) -> dict[str, Any]:
        return json.loads((self.path / "index.json").read_text("utf-8"))


@dataclass(frozen=True)
class SearchChoice(Artifact):
    """``search_method.json``: how queries are answered with a model, and what every method reached on the eval set."""

    content: ClassVar[tuple[str, ...]] = ("search_method.json",)

    def describe(self) -> dict[str, Any]:
        return json.loads((self.path / "search_method.json").read_text("utf-8"))

    def gains(self) -> dict[str, Any]:
        """``gains.json``: what each part of the search gains; empty in versions that did not record it."""
        return _optional(self.path / "gains.json", {})


@dataclass(frozen=True)
class JudgeScores(Artifact):
    """``scores.json``: every judge's scores of every caption; ``embedding_models/``: the same in the layout of
    CLIP-CC-Bench."""

    content: ClassVar[tuple[str, ...]] = ("scores.json",)

    def scores(self) -> dict[str, Any]:
        return json.loads((self.path / "scores.json").read_text("utf-8"))

    def skipped(self) -> dict[str, str]:
        """The reason why a judge was not used, by its name."""
        return json.loads((self.path / "skipped.json").read_text("utf-8"))

    def truncated(self) -> dict[str, Any]:
        """How many texts are longer than each judge's limit; empty in versions that did not count them."""
        return _optional(self.path / "truncated.json", {})

    def floors(self) -> dict[str, float | None]:
        """By judge the mean hm_cf of a reference of another clip; empty in versions that did not measure it."""
        return _optional(self.path / "floors.json", {})

    def costs(self) -> dict[str, dict[str, float]]:
        """By judge its ``seconds`` for ``texts``; empty in versions that did not record them."""
        return _optional(self.path / "costs.json", {})

    def texts(self, judge: str, captioner: str) -> dict[str, dict[str, Any]]:
        """By clip its ``reference``, the captioner's ``candidate``, and their scores by the judge."""
        path = self.path / "embedding_models" / "individual_results" / "json" / judge / f"{captioner}.json"
        return json.loads(path.read_text("utf-8"))

    def notes(self) -> list[str]:
        """What of the caption files was not judged, in sentences."""
        return _optional(self.path / "notes.json", [])


@dataclass(frozen=True)
class JudgeRanking(Artifact):
    """``ranking.json``: captioners by Borda points, with intervals and the judges' agreement; ``ranking/``: CSV
    tables; ``report.md`` with pictures."""

    content: ClassVar[tuple[str, ...]] = ("ranking.json",)

    def ranking(self) -> dict[str, Any]:
        return json.loads((self.path / "ranking.json").read_text("utf-8"))


@dataclass(frozen=True)
class ImageTextPairs(Artifact):
    """``pairs.parquet`` with columns ``pair_id``, ``text`` (strings), ``image`` (bytes of an image file) and
    ``rgb`` (list of three integers, or null where an image is not of one colour)."""

    content: ClassVar[tuple[str, ...]] = ("pairs.parquet",)
    parquet: ClassVar[str] = "pairs.parquet"

    def rows(self) -> Iterator[dict[str, Any]]:
        yield from _rows(self.path / self.parquet)


@dataclass(frozen=True)
class Captions(Artifact):
    """``captions.jsonl``: ``pair_id``, ``caption`` (null where there is none) and ``reason``, one line per pair."""

    content: ClassVar[tuple[str, ...]] = ("captions.jsonl",)

    def captions(self) -> dict[str, str | None]:
        lines = (self.path / "captions.jsonl").read_bytes().split(b"\n")  # a caption may hold U+2028
        return {row["pair_id"]: row["caption"] for row in map(json.loads, filter(None, lines))}


@dataclass(frozen=True)
class ImageTextScores(Artifact):
    """``scores.json``: every model's figures in every condition; ``ranks.json``: the rank of the right partner for
    every pair, both ways; ``benchmark_results.tsv``: the origin's table."""

    content: ClassVar[tuple[str, ...]] = ("scores.json", "ranks.json")

    def scores(self) -> dict[str, Any]:
        return json.loads((self.path / "scores.json").read_text("utf-8"))

    def skipped(self) -> dict[str, str]:
        """The reason why a model was not measured, by its name."""
        return json.loads((self.path / "skipped.json").read_text("utf-8"))

    def ranks(self) -> dict[str, Any]:
        """By model, condition and direction how many candidates are ranked above the partner (``greater``) and with it
        (``equal``, itself included), for every pair."""
        return json.loads((self.path / "ranks.json").read_text("utf-8"))

    def dimensions(self) -> dict[str, int]:
        """The length of the vectors by model; empty in versions that did not record it."""
        return _optional(self.path / "dimensions.json", {})

    def samples(self) -> list[dict[str, Any]]:
        """Some pairs: ``row``, ``pair_id``, ``text``, ``caption`` (or null), ``image`` (a small one as a data URI);
        empty in versions that did not keep them."""
        return _optional(self.path / "samples.json", [])


@dataclass(frozen=True)
class ImageTextReport(Artifact):
    """``report.json`` (comparisons with intervals), ``report.md`` and pictures."""

    content: ClassVar[tuple[str, ...]] = ("report.json",)

    def report(self) -> dict[str, Any]:
        return json.loads((self.path / "report.json").read_text("utf-8"))


def _optional(path: Path, otherwise: Any) -> Any:
    """The JSON value of a file that earlier versions did not write."""
    return json.loads(path.read_text("utf-8")) if path.exists() else otherwise


_ROWS_IN_MEMORY = 256  # a row may be a whole document


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    """Rows of a Parquet file, a few in memory at a time."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as opened:
        file: Any = opened
        for batch in file.iter_batches(batch_size=_ROWS_IN_MEMORY):
            yield from batch.to_pylist()
