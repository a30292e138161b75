"""Which questions are for training, validation and the eval set: by document, never by question."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from assets_pkg.config.sections.prep import SplitSettings
from assets_pkg.prep.errors import PrepError
from assets_pkg.prep.filtering import LOW, Placed, Question, Rejections, filter_pairs, question_key
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


def ratios_of(settings: SplitSettings, *, without_test: bool = False) -> dict[SplitName, float]:
    """The share of every split that has one; ``without_test`` those of training and validation, to make 1.

    Raises:
        PrepError: no split has a share.
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


def divide(
    groups: Sequence[Group], weights: Mapping[str, int], settings: SplitSettings, ratios: Ratios
) -> dict[str, SplitName]:
    """The split of every document; each split of ``ratios`` gets a group at least (there must be as many).

    ``random``: the recipe's cut of the shuffled documents, groups of several first. The other strategies:
    groups by falling number of pairs (``weights``, by document), each to the split that is furthest below its
    share of all pairs.
    """
    shuffled = list(groups)
    random.Random(settings.conversion_seed).shuffle(shuffled)
    if settings.split_strategy == "random":
        targets: Mapping[SplitName, float] = _documents(ratios, sum(map(len, groups)))
        return _deal(sorted(shuffled, key=len, reverse=True), targets, len, _next_split)

    def weight(group: Group) -> int:
        return sum(weights.get(document, 0) for document in group)

    total = sum(map(weight, groups))
    targets = {name: ratio * total for name, ratio in ratios.items()}
    return _deal(sorted(shuffled, key=weight, reverse=True), targets, weight, _furthest_below)


def _deal(
    ordered: Sequence[Group],
    targets: Mapping[SplitName, float],
    weight: Callable[[Group], int],
    choose: Callable[[Group, Mapping[SplitName, float]], SplitName],
) -> dict[str, SplitName]:
    missing = dict(targets)
    empty: list[SplitName] = list(targets)
    split_of: dict[str, SplitName] = {}
    for place, group in enumerate(ordered):
        # The last groups go to splits that would else stay empty.
        name = empty[0] if len(ordered) - place <= len(empty) else choose(group, missing)
        missing[name] -= weight(group)
        if name in empty:
            empty.remove(name)
        split_of.update(dict.fromkeys(group, name))
    return split_of


def _furthest_below(group: Group, missing: Mapping[SplitName, float]) -> SplitName:
    names: list[SplitName] = list(missing)
    return max(names, key=lambda name: missing[name])


def _next_split(group: Group, missing: Mapping[SplitName, float]) -> SplitName:
    """Where the next group goes: several documents to the split that lacks most, one to the first that is not
    full."""
    if len(group) > 1:
        return _furthest_below(group, missing)
    names: list[SplitName] = list(missing)
    for name in names:
        if missing[name] > 0:
            return name
    return names[-1]


def _documents(ratios: Ratios, documents: int) -> dict[SplitName, float]:
    """Documents per split: the recipe's ``int(n * ratio)`` and the rest for the last, but none without one."""
    *first, last = ratios
    counts: dict[SplitName, float] = {name: max(1, int(documents * ratios[name])) for name in first}
    if sum(counts.values()) >= documents:
        counts[first[0]] = max(1, documents - sum(counts[name] for name in first[1:]) - 1)
    return {**counts, last: documents - sum(counts.values())}


@dataclass(frozen=True)
class FixedEvalSet:
    """An eval set that stays as it is, whatever pairs there are: what training may not see of it.

    ``documents``: paths of its source documents, where it names them. ``answers``: texts of its relevant
    passages. ``questions``: their texts.
    """

    documents: frozenset[str]
    answers: tuple[str, ...]
    questions: tuple[str, ...]


@dataclass(frozen=True)
class SplitData:
    """All passages and the kept questions of a set of records, divided.

    ``passages``: text by passage id, every distinct chunk of all records, by document and chunk.
    ``documents``: the split of every document that has a kept question, or that a fixed eval set holds.
    ``passages_of``: ids by document. ``rejected``: the pairs left out. ``groups``: how many documents the groups
    have that were kept together.
    """

    passages: dict[str, str]
    passages_of: dict[str, tuple[str, ...]]
    questions: dict[SplitName, list[Question]]
    documents: dict[str, SplitName]
    rejected: Rejections
    groups: list[int]

    def held_out_passages(self) -> list[str]:
        """Ids, sorted, that training may not see even as negatives: the passages of validation and test
        documents, but for those that training documents have too (none of them answers a held-out question)."""
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
    """Filter the pairs and divide their documents; the order of the records does not matter.

    Args:
        eval set: documents that belong to it, or that must not be parted from one that does, are its test; the
            others are for training and validation only.

    Raises:
        PrepError: no pair is left, there are too few documents to fill every split that has a ratio, or
            ``groups_json`` cannot be used.
        RecordError: a record cannot be read.
    """
    records = sorted(_read(qa, progress), key=lambda placed: placed.order)
    passages: dict[str, str] = {}
    passages_of: dict[str, tuple[str, ...]] = {}
    paths_of: dict[str, tuple[str, ...]] = {}
    for record in (placed.record for placed in records):
        ids = {passage_id(chunk.text): chunk.text for chunk in record.chunks if chunk.text.strip()}
        passages.update(ids)
        passages_of[record.source_id] = (*passages_of.get(record.source_id, ()), *ids)
        paths_of[record.source_id] = (*paths_of.get(record.source_id, ()), *record.file_name)
    kept, rejected = filter_pairs(records, settings)
    if not kept:
        raise PrepError(_nothing_left(rejected.counts(), settings))
    material = _Material(kept, passages, passages_of, paths_of, settings, eval_set)
    groups, held = material.groups(), material.held()
    pairs = Counter(question.document for question in kept)
    documents = _whole_split(groups, pairs, settings, held) if eval_set else None
    if documents is None:
        free = [group for group in groups if not held & set(group)]
        ratios = ratios_of(settings, without_test=eval_set is not None)
        if len(free) < len(ratios):
            raise PrepError(_too_few(free, list(ratios), settings, len(records), rejected.counts()))
        documents = divide(free, pairs, settings, ratios)
        documents |= dict.fromkeys(sorted(held.union(*(each for each in groups if held & set(each)))), "test")
    questions: dict[SplitName, list[Question]] = {name: [] for name in SPLITS}
    for question in kept:
        questions[documents[question.document]].append(question)
    _drop_known_questions(questions, rejected, settings, eval_set)
    sizes = sorted(map(len, groups), reverse=True)
    return SplitData(passages, passages_of, questions, documents, rejected, sizes)


def _whole_split(
    groups: list[list[str]], pairs: Mapping[str, int], settings: SplitSettings, held: set[str]
) -> dict[str, SplitName] | None:
    """The split as it is without a fixed eval set, if the eval set was split off in just that way: freezing it must not
    move documents between training and validation."""
    ratios = ratios_of(settings)
    if len(groups) < len(ratios):
        return None
    documents = divide(groups, pairs, settings, ratios)
    return documents if {each for each, split in documents.items() if split == "test"} == held else None


def _read(qa: QAPairs, progress: Progress) -> Iterator[Placed]:
    with qa.records.open("rb") as stream:
        total = sum(1 for line in stream if line.strip())
    for number, record in enumerate(read_records(qa.records), start=1):
        yield Placed(record, f"{qa.records.name}:{number}")
        progress(number, total, "documents")


# ---- questions known elsewhere ----------------------------------------------------------------------------------


def _drop_known_questions(
    questions: dict[SplitName, list[Question]],
    rejected: Rejections,
    settings: SplitSettings,
    eval_set: FixedEvalSet | None,
) -> None:
    """Take out of training and validation what is asked, word for word, in the splits after them or in the
    eval set; with the strategy ``near_duplicate`` also what is nearly asked there."""
    asked = list(eval_set.questions) if eval_set else []
    if eval_set:  # whatever stands there is the eval set's, and no pair that was left out
        questions["test"] = []
    for name in reversed(SPLITS):
        keys = {question_key(text) for text in asked}
        exact = {each.question_id for each in questions[name] if question_key(each.pair.question) in keys}
        fresh = _without(questions[name], exact, "asked_in_a_held_out_document_too", rejected)
        if settings.split_strategy == "near_duplicate":
            near = _near(fresh, asked, settings.near_duplicate_threshold)
            fresh = _without(fresh, near, "nearly_asked_in_a_held_out_document", rejected)
        questions[name] = fresh
        asked += [each.pair.question for each in fresh]


def _near(questions: Sequence[Question], asked: Sequence[str], threshold: float) -> set[str]:
    """Ids of the questions that are nearly one of ``asked``."""
    pairs = near_pairs([each.pair.question for each in questions], asked, threshold)
    return {questions[pair.left].question_id for pair in pairs}


def _without(
    questions: Sequence[Question], dropped: set[str], reason: str, rejected: Rejections
) -> list[Question]:
    for each in questions:
        if each.question_id in dropped:
            rejected.add(reason, each.where, each.document, each.pair.question)
    return [each for each in questions if each.question_id not in dropped]


def _nothing_left(rejected: Counter[str], settings: SplitSettings) -> str:
    reasons = ", ".join(f"{count} {reason}" for reason, count in rejected.most_common()) or "there are none"
    return (
        f"no question is left for training and evaluation: {reasons}. Lower prep.quality_threshold "
        f"(now {settings.quality_threshold:g}), or add documents"
    )


# ---- what stays together ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Material:
    """What groups are made of: see :class:`SplitData`; ``paths_of`` are a document's paths (several: a bundle)."""

    kept: list[Question]
    passages: dict[str, str]
    passages_of: dict[str, tuple[str, ...]]
    paths_of: dict[str, tuple[str, ...]]
    settings: SplitSettings
    eval_set: FixedEvalSet | None

    def groups(self) -> list[list[str]]:
        """Documents with questions, in groups that must stay together; sorted."""
        positives = {name for question in self.kept for name in question.positives}
        documents = sorted({question.document for question in self.kept})
        groups = Groups(documents)
        join_sharing(groups, ((each, set(self.passages_of[each]) & positives) for each in documents))
        join_sharing(groups, ((each, set(self.paths_of[each])) for each in documents))
        if self.settings.split_strategy == "near_duplicate":
            for alike in self._nearly_alike(documents, positives):
                groups.join(alike)
        elif files := self.settings.groups_files:
            may_overlap = self.settings.split_strategy == "dedupped"
            for given in read_groups(files, self.paths_of, may_overlap=may_overlap):
                groups.join(given)
        return groups.listed()

    def held(self) -> set[str]:
        """Documents of the fixed eval set: named by it, or holding the text of an answer (or nearly that text, with
        the strategy ``near_duplicate``)."""
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

    def _nearly_alike(self, documents: Sequence[str], positives: set[str]) -> Iterator[list[str]]:
        """Pairs of documents whose whole texts are nearly the same, and holders of passages nearly the same as
        one that answers a question."""
        threshold = self.settings.near_duplicate_threshold
        texts = ["\n".join(self.passages[name] for name in self.passages_of[each]) for each in documents]
        for pair in near_pairs_within(texts, threshold):
            yield [documents[pair.left], documents[pair.right]]
        names = sorted({name for document in documents for name in self.passages_of[document]})
        answers = sorted(positives)
        holders: dict[str, list[str]] = {}
        for document in documents:
            for name in self.passages_of[document]:
                holders.setdefault(name, []).append(document)
        pairs = near_pairs(
            [self.passages[name] for name in answers], [self.passages[name] for name in names], threshold
        )
        for pair in pairs:
            yield [*holders[answers[pair.left]], *holders[names[pair.right]]]


def _too_few(
    groups: Sequence[Sequence[str]],
    wanted: Sequence[str],
    settings: SplitSettings,
    records: int,
    rejected: Counter[str],
) -> str:
    documents = sum(map(len, groups))
    low = rejected[LOW]
    return (
        f"too few documents to split into {', '.join(wanted)}: {documents} of {records} have usable questions, "
        f"in {len(groups)} groups that share no answer, and each split needs one. Add documents, lower "
        f"prep.quality_threshold (now {settings.quality_threshold:g}; {low} questions are below it), or set "
        "prep.val_ratio=0"
    )
