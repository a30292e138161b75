"""Documents that must not be parted by a split: given in a file, found to be alike, or sharing what they answer."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

from assets_pkg.prep.errors import PrepError

SECTIONS = ("exact", "fuzzy", "semantic")
GROUPINGS = ("groups", "clusters")


class Groups:
    """Disjoint groups of names; :meth:`join` makes one of several (union-find)."""

    def __init__(self, names: Iterable[str]):
        self._parent = {name: name for name in names}

    def join(self, names: Iterable[str]) -> None:
        """Put ``names`` and all that stand with them into one group; names that are not known do not count."""
        known = [name for name in names if name in self._parent]
        for name in known[1:]:
            first, second = sorted((self._root(known[0]), self._root(name)))
            self._parent[second] = first

    def listed(self) -> list[list[str]]:
        """The groups and their members, sorted."""
        groups: defaultdict[str, list[str]] = defaultdict(list)
        for name in sorted(self._parent):
            groups[self._root(name)].append(name)
        return sorted(groups.values())

    def _root(self, name: str) -> str:
        while self._parent[name] != name:
            self._parent[name] = self._parent[self._parent[name]]
            name = self._parent[name]
        return name


def join_sharing(groups: Groups, holders: Iterable[tuple[str, Iterable[str]]]) -> None:
    """Join the documents that have something in common; ``holders``: (document, what it has)."""
    holders_of: defaultdict[str, list[str]] = defaultdict(list)
    for document, things in holders:
        for thing in things:
            holders_of[thing].append(document)
    for sharing in holders_of.values():
        groups.join(sharing)


def read_groups(
    files: Sequence[Path], paths_of: Mapping[str, Sequence[str]], *, may_overlap: bool
) -> list[list[str]]:
    """The groups of ``groups_json`` files, as documents of the corpus.

    The files are ``{"exact"|"fuzzy"|"semantic": {"groups"|"clusters": {group: [name, ...]}}}``. A name stands
    for the document with that path, else with that path but for extensions, else with that file name (a
    bundle's members stand for the bundle).

    Args:
        paths_of: the paths of each document; several for a bundle.
        may_overlap: a document may stand in several groups.

    Raises:
        PrepError: a file is not readable as groups, a name fits several documents, no name fits any, or
            groups overlap that may not.
    """
    names = _Names(paths_of)
    groups: list[list[str]] = []
    group_of: dict[str, str] = {}
    for file in files:
        for label, members in _listed_groups(file):
            documents = sorted(
                {each for member in members for each in names.find(member, f"{file}: {label}")}
            )
            groups.append(documents)
            for document in documents:
                if group_of.setdefault(document, label) != label and not may_overlap:
                    raise PrepError(
                        f"{file}: {document} is in {group_of[document]} and in {label}: a document has one cluster; "
                        "split_strategy=dedupped makes one group of those that overlap"
                    )
    if not group_of:
        given = ", ".join(map(str, files))
        raise PrepError(f"prep.groups_json = {given}: none of its names is a document of the corpus")
    return groups


def _listed_groups(file: Path) -> Iterator[tuple[str, list[str]]]:
    """(``section.grouping.group``, names) of every group."""
    try:
        content = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise PrepError(f"prep.groups_json = {file}: not readable as JSON: {error}") from error
    shape = f'{file}: must be {{"exact"|"fuzzy"|"semantic": {{"groups"|"clusters": {{group: [document]}}}}}}'
    if not isinstance(content, dict) or not set(content) & set(SECTIONS):
        raise PrepError(shape)
    for section in SECTIONS:
        for grouping in GROUPINGS:
            groups = _mapping(_mapping(content.get(section, {}), shape).get(grouping, {}), shape)
            for name, members in sorted(groups.items()):
                label = f"{section}.{grouping}.{name}"
                if not isinstance(members, list) or not all(isinstance(each, str) for each in members):
                    raise PrepError(f"{file}: {label}: must be a list of document names")
                yield label, members


def _mapping(value: object, shape: str) -> dict[str, object]:
    if not isinstance(value, dict):
        raise PrepError(shape)
    return value


class _Names:
    """Finds documents by path, then without extension, then by file name."""

    def __init__(self, paths_of: Mapping[str, Sequence[str]]):
        self._documents: defaultdict[str, set[str]] = defaultdict(set)
        for document, paths in paths_of.items():
            for path in paths:
                self._documents[_plain(path)].add(document)
        self._paths: list[defaultdict[str, set[str]]] = [defaultdict(set) for _ in _FORMS]
        for path in self._documents:
            for form, known in zip(_FORMS, self._paths, strict=True):
                known[form(path)].add(path)

    def find(self, name: str, where: str) -> set[str]:
        """The document (or the bundles) of that name; none if there is no such."""
        plain = _plain(name)
        for form, known in zip(_FORMS, self._paths, strict=True):
            paths = known.get(form(plain), set())
            if len(paths) > 1:
                raise PrepError(
                    f"{where}: {name!r} is ambiguous, it fits {', '.join(sorted(paths))}: write the path"
                )
            if paths:
                return self._documents[next(iter(paths))]
        return set()


def _plain(path: str) -> str:
    return PurePosixPath(path.replace("\\", "/")).as_posix()


def _bare(path: str) -> str:
    return (PurePosixPath(path).parent / PurePosixPath(path).stem).as_posix()


_FORMS = (str, _bare, lambda path: PurePosixPath(path).name, lambda path: PurePosixPath(path).stem)
