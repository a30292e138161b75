"""The eval set as a fixed one: imported from a BEIR folder, kept out of training, and frozen.

An eval set that is split from the pairs is written by :mod:`~assets_pkg.prep.training_set`, with the training set.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from assets_pkg.orchestration.instance import open_instance
from assets_pkg.orchestration.upstream import UpstreamArtifacts
from assets_pkg.prep.errors import PrepError
from assets_pkg.prep.filtering import question_key
from assets_pkg.prep.split import FixedEvalSet
from resources.configurable import ArtifactStoreResource
from storage.artifact_store import ArtifactError, ArtifactStore, BuildKey
from storage.artifacts import EvalSet
from storage.files import write_json
from storage.formats.beir import (
    FILES,
    Qrels,
    beir_fingerprint,
    count_missing_answers,
    read_documents,
    read_qrels,
    read_queries,
    write_beir,
)
from storage.formats.eval_origin import OWN
from storage.paths import FROZEN_EVAL_SET

ASSET = "eval_set"
"""The link to the frozen eval set's version, below the artifact root."""

NEXT = "next: `retune prep`; models measured on another eval set are not compared with it"


# ---- importing a BEIR folder -----------------------------------------------------------------------------------


def find_beir(path: Path) -> Path:
    """The BEIR folder: ``path`` itself, or ``path/eval_beir``."""
    inner = path / "eval_beir"
    return inner if not (path / FILES[0]).exists() and inner.is_dir() else path


def import_beir(path: Path, folder: Path) -> None:
    """Check the BEIR folder ``path`` and write it into ``folder`` as ``eval_beir/``, with ``summary.json``.

    ``summary.json`` counts the answers that are not in the corpus, and the questions that are documents too (these do
    not find themselves: :func:`~assets_pkg.retrieval.metrics.score_run`).

    Raises:
        BeirError: a file is missing or malformed (it names file, line and field), or more than 1% of the answers are
            not in the corpus.
        PrepError: a judged query does not exist, an id is repeated, or nothing is relevant.
    """
    source = find_beir(path)
    qrels = read_qrels(source)
    queries = list(read_queries(source))
    texts = _distinct(((each.query_id, each.text) for each in queries), source / "queries.jsonl")
    documents = _distinct(
        ((each.doc_id, each.joined) for each in read_documents(source)), source / "corpus.jsonl"
    )
    _check_judgements(source / FILES[2], qrels, texts)
    missing = count_missing_answers(source, qrels, documents)
    write_beir(folder / "eval_beir", read_documents(source), queries, qrels)
    own = sum(query in documents for query in qrels)
    oddities = {"questions_that_are_documents": own, "answers_not_in_corpus": missing}
    found = {name: count for name, count in oddities.items() if count}
    origin = {"questions_by": OWN, "questions_from": str(path)}
    summary = {**_figures(qrels, documents), **found, "source": str(path), **origin}
    write_json(folder / "summary.json", summary, final_newline=True)


def import_eval_set(store: ArtifactStore, path: Path) -> EvalSet:
    """Import the BEIR folder ``path`` into the store and freeze it.

    Raises:
        BeirError, PrepError: as :func:`import_beir`.
    """
    key = BuildKey(ASSET, "imported", {"source": beir_fingerprint(find_beir(path))})
    eval_set = store.build(EvalSet, key, lambda folder: import_beir(path, folder))
    freeze(store, eval_set)
    return eval_set


def _distinct(rows: Iterable[tuple[str, str]], file: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    for number, (name, text) in enumerate(rows, start=1):
        if name in found:
            raise PrepError(f"{file}: row {number}: _id {name!r} comes twice")
        found[name] = text
    return found


def _check_judgements(file: Path, qrels: Qrels, queries: Mapping[str, str]) -> None:
    for query in qrels:
        if not queries.get(query, "").strip():
            raise PrepError(f"{file}: query {query} is judged, and queries.jsonl has no text for it")
    if not any(score > 0 for judged in qrels.values() for score in judged.values()):
        raise PrepError(f"{file}: no query has a relevant document")


def _figures(qrels: Qrels, documents: Mapping[str, str]) -> dict[str, Any]:
    relevant = [sum(score > 0 for score in judged.values()) for judged in qrels.values()]
    judged = sum(count > 0 for count in relevant)
    return {
        "test_questions": judged,
        "passages": len(documents),
        "positives_per_question": round(sum(relevant) / judged, 4),
    }


# ---- keeping it out of training --------------------------------------------------------------------------------


def read_fixed_eval_set(eval_set: EvalSet) -> FixedEvalSet:
    """The documents, answers and questions that training must not contain."""
    qrels = read_qrels(eval_set.beir)
    judged = {name for each in qrels.values() for name, score in each.items() if score > 0}
    queries = [each for each in read_queries(eval_set.beir) if each.query_id in qrels]
    paths = {name for each in queries for name in each.metadata.get("file_name", [])}
    answers = tuple(each.joined for each in read_documents(eval_set.beir) if each.doc_id in judged)
    return FixedEvalSet(frozenset(paths), answers, tuple(each.text for each in queries))


def answer_keys(eval_set: FixedEvalSet) -> frozenset[str]:
    """The answers' texts without differences of case and spacing."""
    return frozenset(question_key(text) for text in eval_set.answers)


# ---- freezing --------------------------------------------------------------------------------------------------


def frozen_eval_set(store: ArtifactStore) -> EvalSet | None:
    """The frozen eval set, or None.

    Raises:
        ArtifactError: its files are gone.
    """
    frozen = store.resolve(FROZEN_EVAL_SET)
    return None if frozen is None else store.get(EvalSet, ASSET, frozen.name)


def freeze(store: ArtifactStore, eval_set: EvalSet) -> None:
    """Use this eval set from now on."""
    store.link(FROZEN_EVAL_SET, eval_set.path)


def release(store: ArtifactStore) -> None:
    """Split the eval set from the pairs again from now on."""
    store.unlink(FROZEN_EVAL_SET)


class EvalSetCommands:
    """What ``retune eval-set`` does. Each method returns the text to print.

    Raises:
        PrepError, BeirError: the command cannot be carried out; the message says why.
    """

    def __init__(self, root: str):
        self._resource = ArtifactStoreResource(root=root)
        self._store = self._resource.get()

    def describe(self) -> Iterator[str]:
        """The current eval set, line by line."""
        frozen, current = self._frozen_and_current()
        if current is None:
            yield "there is no eval set yet: `retune prep` makes one"
            return
        yield f"eval set {current.version}: {'frozen' if frozen else 'split from the pairs, not frozen'}"
        for name, value in current.summary().items():
            yield f"  {name}: {value}"
        yield f"  path: {current.beir}"

    def freeze(self) -> str:
        """Freeze the current eval set."""
        frozen, current = self._frozen_and_current()
        if current is None:
            raise PrepError("there is no eval set to freeze: run `retune prep` first")
        freeze(self._store, current)
        return f"eval set {current.version} is {'still' if frozen else 'now'} frozen"

    def import_beir(self, path: Path) -> str:
        """Import a BEIR folder and freeze it."""
        imported = import_eval_set(self._store, path)
        return f"eval set {imported.version} imported from {path} and frozen; {NEXT}"

    def release(self) -> str:
        """Release the frozen eval set."""
        frozen = self._frozen()
        release(self._store)
        return f"eval set {frozen.version} is released; {NEXT}" if frozen else "no eval set is frozen"

    def _frozen_and_current(self) -> tuple[EvalSet | None, EvalSet | None]:
        frozen = self._frozen()
        return frozen, frozen or self._latest()

    def _frozen(self) -> EvalSet | None:
        try:
            return frozen_eval_set(self._store)
        except ArtifactError as error:
            raise PrepError(f"the frozen eval set is gone: {error}") from error

    def _latest(self) -> EvalSet | None:
        with open_instance() as instance:
            inputs = UpstreamArtifacts(instance, self._resource)
            return inputs.input(EvalSet, ASSET) if inputs.previous(ASSET) else None
