"""Groups of documents that a split must not divide, and the files that list such groups."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

from assets_pkg.prep.errors import PrepError

SECTIONS = ("exact", "fuzzy", "semantic")
GROUPINGS = ("groups", "clusters")


class Groups:
    """Disjoint groups of names: at first one for each name."""

    def __init__(self, names: Iterable[str]):
        from scipy.cluster.hierarchy import DisjointSet

        self._sets = DisjointSet(names)

    def join(self, names: Iterable[str]) -> None:
        """Merge the groups of ``names`` into one; unknown names are ignored."""
        known = [name for name in names if name in self._sets]
        for name in known[1:]:
            self._sets.merge(known[0], name)

    def to_lists(self) -> list[list[str]]:
        """The groups and their members, sorted."""
        return sorted(sorted(group) for group in self._sets.subsets())


def join_sharing(groups: Groups, holders: Iterable[tuple[str, Iterable[str]]]) -> None:
    """Join the documents that have an item in common; ``holders``: (document, its items)."""
    documents_with: defaultdict[str, list[str]] = defaultdict(list)
    for document, items in holders:
        for item in items:
            documents_with[item].append(document)
    for documents in documents_with.values():
        groups.join(documents)


def read_groups(
    files: Sequence[Path], paths_of: Mapping[str, Sequence[str]], *, may_overlap: bool
) -> list[list[str]]:
    """The groups of ``groups_json`` files, as documents of the corpus.

    The files are ``{"exact"|"fuzzy"|"semantic": {"groups"|"clusters": {group: [name, ...]}}}``. A name
    means the document with that path, else with that path without extensions, else with that file name (a
    bundle's members mean the bundle).

    Args:
        files: paths of the files.
        paths_of: the paths of each document; several for a bundle.
        may_overlap: whether a document may be in several groups.

    Raises:
        PrepError: a file is malformed, a name matches several documents, no name matches any, or groups overlap
            and may not.
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
        paths = ", ".join(map(str, files))
        raise PrepError(f"prep.groups_json = {paths}: none of its names is a document of the corpus")
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
        """The document (or the bundles) of that name; empty if there is none."""
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
