"""Splits the questions into training, validation and test, by document: all questions of a document are in one split.

Documents that share a passage or a file, or that the strategy groups, are in one split too.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from assets_pkg.config.sections.prep import SplitSettings
from assets_pkg.prep.errors import PrepError
from assets_pkg.prep.filtering import LOW, LocatedRecord, Question, Rejections, filter_pairs, question_key
from assets_pkg.prep.groups import Groups, join_sharing, read_groups
from assets_pkg.prep.near_duplicates import near_pairs, near_pairs_within
from storage.artifacts import QAPairs
from storage.digests import passage_id
from storage.formats.qa_records import read_records
from storage.progress import Progress, no_progress

SplitName = Literal["train", "val", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "val", "test")
Ratios = Mapping[SplitName, float]
Group = Sequence[str]


@dataclass(frozen=True)
class FixedEvalSet:
    """What training must not contain of an eval set that is not split from the pairs.

    ``documents``: paths of its source documents, where it names them. ``answers``: texts of its relevant
    passages. ``questions``: their texts.
    """

    documents: frozenset[str]
    answers: tuple[str, ...]
    questions: tuple[str, ...]


@dataclass(frozen=True)
class SplitData:
    """All passages of a set of records, and the questions that were kept by split.

    ``passages``: text by passage id, every distinct chunk of all records, by document and chunk.
    ``documents``: the split of every document that has a kept question, or that belongs to a fixed eval set.
    ``passages_of``: ids by document. ``rejected``: the pairs left out. ``groups``: the sizes, in documents, of the
    groups that were not divided, largest first.
    """

    passages: dict[str, str]
    passages_of: dict[str, tuple[str, ...]]
    questions: dict[SplitName, list[Question]]
    documents: dict[str, SplitName]
    rejected: Rejections
    groups: list[int]

    def held_out_passages(self) -> list[str]:
        """Ids, sorted, that training must not use even as negatives: the passages of validation and test
        documents, except those that training documents have too (none of them answers a held-out question)."""
        owned: dict[str, set[str]] = {"train": set(), "held out": set()}
        for document, split in self.documents.items():
            owned["train" if split == "train" else "held out"].update(self.passages_of[document])
        return sorted(owned["held out"] - owned["train"])


def split_pairs(
    qa: QAPairs,
    settings: SplitSettings,
    progress: Progress = no_progress,
    eval_set: FixedEvalSet | None = None,
) -> SplitData:
    """Filter the pairs and split their documents; the result does not depend on the order of the records.

    Args:
        qa: the pairs.
        settings: quality filter, ratios and strategy.
        progress: called for each record read.
        eval_set: documents that belong to it, or are in a group with one that does, are the test split; the
            others are for training and validation only.

    Raises:
        PrepError: no pair is left, there are too few documents to fill every split that has a ratio, or
            ``groups_json`` cannot be used.
        RecordError: a record cannot be read.
    """
    records = sorted(_read(qa, progress), key=lambda located: located.order)
    passages: dict[str, str] = {}
    passages_of: dict[str, tuple[str, ...]] = {}
    paths_of: dict[str, tuple[str, ...]] = {}
    for record in (located.record for located in records):
        ids = {passage_id(chunk.text): chunk.text for chunk in record.chunks if chunk.text.strip()}
        passages.update(ids)
        passages_of[record.source_id] = (*passages_of.get(record.source_id, ()), *ids)
        paths_of[record.source_id] = (*paths_of.get(record.source_id, ()), *record.file_name)
    kept, rejected = filter_pairs(records, settings)
    if not kept:
        raise PrepError(_no_question(rejected.counts(), settings, _best_score(records)))
    grouping = _Grouping(kept, passages, passages_of, paths_of, settings, eval_set)
    groups, held_out = grouping.groups(), grouping.eval_set_documents()
    pairs = Counter(question.document for question in kept)
    documents = _unchanged_split(groups, pairs, settings, held_out) if eval_set else None
    if documents is None:
        free = [group for group in groups if not held_out & set(group)]
        ratios = split_ratios(settings, without_test=eval_set is not None)
        if len(free) < len(ratios):
            raise PrepError(_too_few_documents(free, list(ratios), settings, len(records), rejected.counts()))
        documents = assign_splits(free, pairs, settings, ratios)
        test = held_out.union(*(group for group in groups if held_out & set(group)))
        documents |= dict.fromkeys(sorted(test), "test")
    questions: dict[SplitName, list[Question]] = {name: [] for name in SPLITS}
    for question in kept:
        questions[documents[question.document]].append(question)
    _drop_repeated_questions(questions, rejected, settings, eval_set)
    sizes = sorted(map(len, groups), reverse=True)
    return SplitData(passages, passages_of, questions, documents, rejected, sizes)


def _read(qa: QAPairs, progress: Progress) -> Iterator[LocatedRecord]:
    with qa.records.open("rb") as stream:
        total = sum(1 for line in stream if line.strip())
    for number, record in enumerate(read_records(qa.records), start=1):
        yield LocatedRecord(record, f"{qa.records.name}:{number}")
        progress(number, total, "documents")


def _best_score(records: Sequence[LocatedRecord]) -> float:
    evaluations = (each for located in records for each in located.record.qa_evaluations.evaluations)
    return max((each.overall.score for each in evaluations), default=0.0)


def _no_question(rejected: Counter[str], settings: SplitSettings, best: float) -> str:
    reasons = ", ".join(f"{count} {reason}" for reason, count in rejected.most_common()) or "there are none"
    if rejected[LOW] and best <= 1:
        return (
            f"no question is left for training and evaluation: {reasons}. All scores lie between 0 and 1, and 0 to 10 "
            "is meant: multiply them by ten, or leave them out"
        )
    return (
        f"no question is left for training and evaluation: {reasons}. Lower prep.quality_threshold "
        f"(now {settings.quality_threshold:g}), or add documents"
    )


def _too_few_documents(
    groups: Sequence[Group],
    splits: Sequence[str],
    settings: SplitSettings,
    records: int,
    rejected: Counter[str],
) -> str:
    documents = sum(map(len, groups))
    low = rejected[LOW]
    return (
        f"too few documents to split into {', '.join(splits)}: {documents} of {records} have usable questions, "
        f"in {len(groups)} groups that share no answer, and each split needs one. Add documents, lower "
        f"prep.quality_threshold (now {settings.quality_threshold:g}; {low} questions are below it), or set "
        "prep.val_ratio=0"
    )


# ---- groups of documents -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Grouping:
    """Groups the documents: see :class:`SplitData`; ``paths_of`` are a document's paths (several for a bundle)."""

    kept: list[Question]
    passages: dict[str, str]
    passages_of: dict[str, tuple[str, ...]]
    paths_of: dict[str, tuple[str, ...]]
    settings: SplitSettings
    eval_set: FixedEvalSet | None

    def groups(self) -> list[list[str]]:
        """Documents with questions, in groups that must not be divided; sorted."""
        positives = {name for question in self.kept for name in question.positives}
        documents = sorted({question.document for question in self.kept})
        groups = Groups(documents)
        join_sharing(groups, ((each, set(self.passages_of[each]) & positives) for each in documents))
        join_sharing(groups, ((each, set(self.paths_of[each])) for each in documents))
        if self.settings.split_strategy == "near_duplicate":
            for similar in self._near_duplicates(documents, positives):
                groups.join(similar)
        elif files := self.settings.groups_files:
            may_overlap = self.settings.split_strategy == "dedupped"
            for listed in read_groups(files, self.paths_of, may_overlap=may_overlap):
                groups.join(listed)
        return groups.to_lists()

    def eval_set_documents(self) -> set[str]:
        """Documents of the fixed eval set: those that it names, and those with the text of an answer (or nearly that
        text, with the strategy ``near_duplicate``)."""
        if self.eval_set is None:
            return set()
        answers = {question_key(text) for text in self.eval_set.answers}
        known = {name for name, text in self.passages.items() if question_key(text) in answers}
        if self.settings.split_strategy == "near_duplicate":
            names, texts = list(self.passages), list(self.passages.values())
            pairs = near_pairs(self.eval_set.answers, texts, self.settings.near_duplicate_threshold)
            known |= {names[pair.right] for pair in pairs}
        return {
            document
            for document, ids in self.passages_of.items()
            if known & set(ids) or self.eval_set.documents & set(self.paths_of[document])
        }

    def _near_duplicates(self, documents: Sequence[str], positives: set[str]) -> Iterator[list[str]]:
        """Pairs of documents whose whole texts are near duplicates, and the documents with a passage that is a near
        duplicate of one that answers a question."""
        threshold = self.settings.near_duplicate_threshold
        texts = ["\n".join(self.passages[name] for name in self.passages_of[each]) for each in documents]
        for pair in near_pairs_within(texts, threshold):
            yield [documents[pair.left], documents[pair.right]]
        names = sorted({name for document in documents for name in self.passages_of[document]})
        answers = sorted(positives)
        documents_with: dict[str, list[str]] = {}
        for document in documents:
            for name in self.passages_of[document]:
                documents_with.setdefault(name, []).append(document)
        pairs = near_pairs(
            [self.passages[name] for name in answers], [self.passages[name] for name in names], threshold
        )
        for pair in pairs:
            yield [*documents_with[answers[pair.left]], *documents_with[names[pair.right]]]


# ---- documents by split ------------------------------------------------------------------------------------------


def split_ratios(settings: SplitSettings, *, without_test: bool = False) -> dict[SplitName, float]:
    """The ratios above 0; ``without_test`` those of training and validation, scaled to a sum of 1.

    Raises:
        PrepError: no ratio is above 0.
    """
    ratios: dict[SplitName, float] = {"train": settings.train_ratio, "val": settings.val_ratio}
    if not without_test:
        ratios["test"] = settings.test_ratio
    whole = sum(ratios.values()) if without_test else 1.0
    shares: dict[SplitName, float] = {name: ratio / whole for name, ratio in ratios.items() if ratio > 0}
    if not shares:
        raise PrepError(
            "prep.train_ratio = 0 and the eval set is fixed: nothing is left to train on; raise it"
        )
    return shares


def assign_splits(
    groups: Sequence[Group], weights: Mapping[str, int], settings: SplitSettings, ratios: Ratios
) -> dict[str, SplitName]:
    """The split of every document; each split of ``ratios`` gets at least one group (there must be as many).

    ``random``: the recipe's cut of the shuffled documents, groups of several documents first. The other strategies:
    groups by descending number of pairs (``weights``, by document), each to the split that is furthest below its
    share of all pairs.
    """
    shuffled = list(groups)
    random.Random(settings.conversion_seed).shuffle(shuffled)
    if settings.split_strategy == "random":
        targets: Mapping[SplitName, float] = _document_counts(ratios, sum(map(len, groups)))
        return _assign(sorted(shuffled, key=len, reverse=True), targets, len, _next_split)

    def weight(group: Group) -> int:
        return sum(weights.get(document, 0) for document in group)

    total = sum(map(weight, groups))
    targets = {name: ratio * total for name, ratio in ratios.items()}
    return _assign(sorted(shuffled, key=weight, reverse=True), targets, weight, _furthest_below)


def _unchanged_split(
    groups: list[list[str]], pairs: Mapping[str, int], settings: SplitSettings, held_out: set[str]
) -> dict[str, SplitName] | None:
    """The split that would be made without a fixed eval set, if its test documents are just those of the eval set:
    freezing an eval set must not move documents between training and validation."""
    ratios = split_ratios(settings)
    if len(groups) < len(ratios):
        return None
    documents = assign_splits(groups, pairs, settings, ratios)
    test = {document for document, split in documents.items() if split == "test"}
    return documents if test == held_out else None


def _assign(
    ordered: Sequence[Group],
    targets: Mapping[SplitName, float],
    weight: Callable[[Group], int],
    choose: Callable[[Group, Mapping[SplitName, float]], SplitName],
) -> dict[str, SplitName]:
    missing = dict(targets)
    empty: list[SplitName] = list(targets)
    split_of: dict[str, SplitName] = {}
    for position, group in enumerate(ordered):
        # The last groups go to splits that would otherwise stay empty.
        name = empty[0] if len(ordered) - position <= len(empty) else choose(group, missing)
        missing[name] -= weight(group)
        if name in empty:
            empty.remove(name)
        split_of.update(dict.fromkeys(group, name))
    return split_of


def _furthest_below(group: Group, missing: Mapping[SplitName, float]) -> SplitName:
    names: list[SplitName] = list(missing)
    return max(names, key=lambda name: missing[name])


def _next_split(group: Group, missing: Mapping[SplitName, float]) -> SplitName:
    """A group of several documents goes to the split that lacks most, a single document to the first split that is
    not full."""
    if len(group) > 1:
        return _furthest_below(group, missing)
    names: list[SplitName] = list(missing)
    for name in names:
        if missing[name] > 0:
            return name
    return names[-1]


def _document_counts(ratios: Ratios, documents: int) -> dict[SplitName, float]:
    """Documents per split: the recipe's ``int(n * ratio)``, at least one, and the rest for the last split."""
    *first, last = ratios
    counts: dict[SplitName, float] = {name: max(1, int(documents * ratios[name])) for name in first}
    if sum(counts.values()) >= documents:
        counts[first[0]] = max(1, documents - sum(counts[name] for name in first[1:]) - 1)
    return {**counts, last: documents - sum(counts.values())}


# ---- questions that are in several splits ------------------------------------------------------------------------


def _drop_repeated_questions(
    questions: dict[SplitName, list[Question]],
    rejected: Rejections,
    settings: SplitSettings,
    eval_set: FixedEvalSet | None,
) -> None:
    """Remove from training and validation the questions that a later split or the eval set has too; with the strategy
    ``near_duplicate`` also their near duplicates."""
    later = list(eval_set.questions) if eval_set else []
    if eval_set:  # questions about its documents are neither used nor rejected
        questions["test"] = []
    for name in reversed(SPLITS):
        keys = {question_key(text) for text in later}
        exact = {each.question_id for each in questions[name] if question_key(each.pair.question) in keys}
        kept = _without(questions[name], exact, "asked_in_a_held_out_document_too", rejected)
        if settings.split_strategy == "near_duplicate":
            near = _near(kept, later, settings.near_duplicate_threshold)
            kept = _without(kept, near, "nearly_asked_in_a_held_out_document", rejected)
        questions[name] = kept
        later += [each.pair.question for each in kept]


def _near(questions: Sequence[Question], texts: Sequence[str], threshold: float) -> set[str]:
    """Ids of the questions that are near duplicates of one of ``texts``."""
    pairs = near_pairs([each.pair.question for each in questions], texts, threshold)
    return {questions[pair.left].question_id for pair in pairs}


def _without(
    questions: Sequence[Question], dropped: set[str], reason: str, rejected: Rejections
) -> list[Question]:
    for each in questions:
        if each.question_id in dropped:
            rejected.add(reason, each.where, each.document, each.pair.question)
    return [each for each in questions if each.question_id not in dropped]
