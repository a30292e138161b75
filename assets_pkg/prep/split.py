"""Which questions are for training, for validation and for the exam: by document, never by question.

Documents that share a passage which answers a question are kept together, so that no answer of the exam, and
no text of an exam document, is ever a positive of training. Where every document stands alone, the split is
the Nemotron recipe's: sort, shuffle with the seed, cut by the ratios.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from assets_pkg.prep.errors import PrepError
from assets_pkg.profile import SplitSettings
from storage.artifacts import QAPairs
from storage.digests import passage_id
from storage.formats.qa_records import QAPair, SourceRecord, read_records
from storage.progress import Progress, no_progress

SplitName = Literal["train", "val", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "val", "test")


@dataclass(frozen=True)
class Question:
    """A pair that was kept: ``positives`` are the ids of its passages, in the order of its segments."""

    question_id: str
    document: str
    pair: QAPair
    quality_score: float
    positives: tuple[str, ...]
    file_name: tuple[str, ...]


@dataclass(frozen=True)
class SplitData:
    """All passages and the kept questions of a set of records, divided.

    ``passages``: text by passage id, every distinct chunk of all records, by document and chunk.
    ``documents``: the split of every document that has a kept question. ``passages_of``: ids by document.
    ``rejected``: pairs left out, counted by reason.
    """

    passages: dict[str, str]
    passages_of: dict[str, tuple[str, ...]]
    questions: dict[SplitName, list[Question]]
    documents: dict[str, SplitName]
    rejected: dict[str, int]

    def held_out_passages(self) -> list[str]:
        """Ids, sorted, that training may not see even as negatives: the passages of validation and test
        documents, but for those that training documents have too (none of them answers a held-out question)."""
        owned: dict[str, set[str]] = {"train": set(), "held out": set()}
        for document, split in self.documents.items():
            owned["train" if split == "train" else "held out"].update(self.passages_of[document])
        return sorted(owned["held out"] - owned["train"])


def split_pairs(qa: QAPairs, settings: SplitSettings, progress: Progress = no_progress) -> SplitData:
    """Filter the pairs and divide their documents; the order of the records does not matter.

    Raises:
        PrepError: no pair is left, or there are too few documents to fill every split that has a ratio.
        RecordError: a record cannot be read.
    """
    records = sorted(_read(qa, progress), key=lambda record: (record.source_id, record.text))
    passages: dict[str, str] = {}
    passages_of: dict[str, tuple[str, ...]] = {}
    for record in records:
        ids = {passage_id(chunk.text): chunk.text for chunk in record.chunks if chunk.text.strip()}
        passages.update(ids)
        passages_of[record.source_id] = (*passages_of.get(record.source_id, ()), *ids)
    kept, rejected = _filter(records, settings)
    if not kept:
        raise PrepError(_nothing_left(rejected, settings))
    documents = _assign(_groups(kept, passages_of), settings, len(records), rejected)
    questions: dict[SplitName, list[Question]] = {name: [] for name in SPLITS}
    for question in kept:
        questions[documents[question.document]].append(question)
    _drop_known_questions(questions, rejected)
    return SplitData(passages, passages_of, questions, documents, dict(sorted(rejected.items())))


def question_key(text: str) -> str:
    """Questions with equal keys are the same question: case and spacing do not count."""
    return " ".join(text.casefold().split())


def _read(qa: QAPairs, progress: Progress) -> Iterator[SourceRecord]:
    with qa.records.open("rb") as stream:
        total = sum(1 for line in stream if line.strip())
    for done, record in enumerate(read_records(qa.records), start=1):
        yield record
        progress(done, total, "documents")


# ---- filtering -----------------------------------------------------------------------------------------------


def _filter(records: Iterable[SourceRecord], settings: SplitSettings) -> tuple[list[Question], Counter[str]]:
    """The pairs that pass, and how many do not by reason. Ids count every pair, kept or not, so that they
    stay the same when the threshold changes."""
    kept: list[Question] = []
    rejected: Counter[str] = Counter()
    number = 0
    for record in records:
        evaluations = record.qa_evaluations.evaluations
        pairs = record.deduplicated_qa_pairs
        if len(evaluations) != len(pairs):
            rejected["evaluations_do_not_match_pairs"] += len(pairs)
            number += len(pairs)
            continue
        chunks = {chunk.chunk_id: chunk.text for chunk in record.chunks}
        for pair, evaluation in zip(pairs, evaluations, strict=True):
            reason = _objection(pair, evaluation.overall.score, chunks, settings)
            if reason:
                rejected[reason] += 1
            else:
                kept.append(_question(number, record, pair, evaluation.overall.score, chunks))
            number += 1
    return kept, rejected


def _objection(pair: QAPair, score: float, chunks: Mapping[int, str], settings: SplitSettings) -> str | None:
    segments = set(pair.segment_ids)
    if score < settings.quality_threshold:
        return "below_quality_threshold"
    if not pair.question.strip():
        return "empty_question"
    if not segments or any(not chunks.get(segment, "").strip() for segment in segments):
        return "segment_does_not_exist"
    if len(segments) > settings.max_pos_docs:
        return "more_than_max_pos_docs"
    return None


def _question(
    number: int, record: SourceRecord, pair: QAPair, score: float, chunks: Mapping[int, str]
) -> Question:
    positives = dict.fromkeys(passage_id(chunks[segment]) for segment in pair.segment_ids)
    return Question(f"q{number}", record.source_id, pair, score, tuple(positives), tuple(record.file_name))


def _drop_known_questions(questions: dict[SplitName, list[Question]], rejected: Counter[str]) -> None:
    """Take out of training and validation what is asked, word for word, in the splits after them."""
    asked: set[str] = set()
    for name in reversed(SPLITS):
        fresh = [
            question for question in questions[name] if question_key(question.pair.question) not in asked
        ]
        if dropped := len(questions[name]) - len(fresh):
            rejected["asked_in_a_held_out_document_too"] += dropped
        questions[name] = fresh
        asked |= {question_key(question.pair.question) for question in fresh}


def _nothing_left(rejected: Counter[str], settings: SplitSettings) -> str:
    reasons = ", ".join(f"{count} {reason}" for reason, count in rejected.most_common()) or "there are none"
    return (
        f"no question is left for training and evaluation: {reasons}. Lower prep.quality_threshold "
        f"(now {settings.quality_threshold:g}), or add documents"
    )


# ---- dividing ------------------------------------------------------------------------------------------------


def _groups(kept: Iterable[Question], passages_of: Mapping[str, Sequence[str]]) -> list[list[str]]:
    """Documents with questions, in groups that must stay together; sorted."""
    documents = sorted({question.document for question in kept})
    positives = {name for question in kept for name in question.positives}
    holders: defaultdict[str, list[str]] = defaultdict(list)
    for document in documents:
        for name in set(passages_of[document]) & positives:
            holders[name].append(document)
    parent = {document: document for document in documents}

    def root(document: str) -> str:
        while parent[document] != document:
            parent[document] = parent[parent[document]]
            document = parent[document]
        return document

    for sharing in holders.values():
        for document in sharing[1:]:
            first, second = sorted((root(sharing[0]), root(document)))
            parent[second] = first
    groups: defaultdict[str, list[str]] = defaultdict(list)
    for document in documents:
        groups[root(document)].append(document)
    return sorted(groups.values())


def _assign(
    groups: list[list[str]], settings: SplitSettings, records: int, rejected: Counter[str]
) -> dict[str, SplitName]:
    """The split of every document."""
    ratios = dict(zip(SPLITS, (settings.train_ratio, settings.val_ratio, settings.test_ratio), strict=True))
    wanted: list[SplitName] = [name for name in SPLITS if ratios[name] > 0]
    if len(groups) < len(wanted):
        raise PrepError(_too_few(groups, wanted, settings, records, rejected))
    targets = _targets(ratios, sum(map(len, groups)))
    shuffled = list(groups)
    random.Random(settings.conversion_seed).shuffle(shuffled)
    shuffled.sort(key=len, reverse=True)  # stable: groups of one keep the shuffled order
    missing: dict[SplitName, int] = {name: targets[name] for name in wanted}
    split_of: dict[str, SplitName] = {}
    for place, group in enumerate(shuffled):
        empty: list[SplitName] = [name for name in wanted if missing[name] == targets[name]]
        # The last groups go to splits that would else stay empty.
        name = empty[0] if len(shuffled) - place <= len(empty) else _next_split(len(group), missing)
        missing[name] -= len(group)
        split_of.update(dict.fromkeys(group, name))
    return split_of


def _next_split(documents: int, missing: Mapping[SplitName, int]) -> SplitName:
    """Where the next group goes: several documents to the split that lacks most, one to the first that is not
    full."""
    names: list[SplitName] = list(missing)
    if documents > 1:
        names.sort(key=lambda name: -missing[name])
        return names[0]
    for name in names:
        if missing[name] > 0:
            return name
    return names[-1]


def _targets(ratios: Mapping[SplitName, float], documents: int) -> dict[SplitName, int]:
    """Documents per split: the recipe's ``int(n * ratio)`` and the rest for the test, but none without one."""
    train, val = (int(documents * ratios[name]) for name in ("train", "val"))
    train, val = max(train, 1 if ratios["train"] else 0), max(val, 1 if ratios["val"] else 0)
    if ratios["test"] and train + val >= documents:
        train = max(1 if ratios["train"] else 0, documents - val - 1)
    return {"train": train, "val": val, "test": documents - train - val}


def _too_few(
    groups: Sequence[Sequence[str]],
    wanted: Sequence[str],
    settings: SplitSettings,
    records: int,
    rejected: Counter[str],
) -> str:
    documents = sum(map(len, groups))
    low = rejected["below_quality_threshold"]
    return (
        f"too few documents to split into {', '.join(wanted)}: {documents} of {records} have usable questions, "
        f"in {len(groups)} groups that share no answer, and each split needs one. Add documents, lower "
        f"prep.quality_threshold (now {settings.quality_threshold:g}; {low} questions are below it), or set "
        "prep.val_ratio=0"
    )
