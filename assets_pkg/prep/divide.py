"""Groups of documents dealt out to training, validation and test."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from assets_pkg.prep.errors import PrepError
from assets_pkg.prep.settings import SplitSettings

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
        raise PrepError("prep.train_ratio = 0 and the exam is fixed: nothing is left to train on; raise it")
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
