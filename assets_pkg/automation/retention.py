"""Which old versions may be deleted: none that is linked, recorded as current, promoted, or served."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any

import dagster as dg

from assets_pkg.orchestration.history import artifact_ref, latest
from assets_pkg.reindex.index import INDEX_MANIFEST, index_in, open_index
from assets_pkg.reindex.searched_index import SearchError, index_of, served_model
from resources.vector_store.base import PassageIndex
from storage.artifact_store import ArtifactStore
from storage.artifacts import CHECKPOINTS, Artifact
from storage.disk import bytes_below
from storage.errors import RetuneError
from storage.files import DAMAGED, replaced_by
from storage.manifest import MANIFEST
from storage.paths import ARTIFACTS, FROZEN_EVAL_SET, JOBS, WORK


class StillNeeded(RetuneError):
    """The document is still part of the current corpus."""


class UnknownDocument(RetuneError):
    """No version holds text of the document."""


MADE_OF_TEXTS = ("corpus_embeddings", "eval_set", "mined_train_set", "eval_metrics")
"""Assets that hold passages, or their vectors, without the names of their documents, each after those it is made
from."""

MODELS = (*CHECKPOINTS, "onnx_model", "tensorrt_engine")
"""Assets that hold no passages, although the name of a document may well be a word of their vocabulary."""


WRITING_SECONDS = 24 * 3600.0
"""A small file is written within this time: a temporary one that is older was left by a killed process."""


@dataclass(frozen=True)
class Removal:
    """One version that is no longer needed, or what a killed build left (then ``version`` is its key)."""

    asset: str
    version: str
    size: int
    unfinished: bool = False


def find_removals(store: ArtifactStore, instance: dg.DagsterInstance, keep: int) -> Iterator[Removal]:
    """Versions beyond the newest ``keep`` of each asset that are not needed, what killed deletions left, and what
    killed builds left if a newer version was made since: other builds may still be resumed."""
    needed = store.linked() | _current(store, instance) | _served(store)
    for asset in store.assets():
        for version in store.versions(asset)[keep:]:
            if (asset, version) not in needed:
                yield Removal(asset, version, store.size(asset, version))
    yield from find_half_removed(store)
    for left in _unfinished(store):
        made = [each.stat().st_mtime for each in (store.root / ARTIFACTS / left.asset).glob(f"*/{MANIFEST}")]
        if _last_change(store.work_folder(left.asset, left.version)) < max(made, default=0.0):
            yield left


def find_half_removed(store: ArtifactStore) -> Iterator[Removal]:
    """What killed deletions left: no version any more, but files of one."""
    for asset, version in store.half_removed():
        yield Removal(asset, version, bytes_below(store.root / ARTIFACTS / asset / version))


def find_leftovers(store: ArtifactStore) -> Iterator[Path]:
    """Damaged files that were set aside, and temporary files of killed processes, if what they were to be was made
    since; temporary ones also a day later."""
    for path in _left_files(store):
        made = replaced_by(path)
        with suppress(FileNotFoundError):  # another process cleans up too, or has renamed its file
            left = path.lstat().st_mtime
            renewed = made is not None and os.path.lexists(made) and made.lstat().st_mtime > left
            if renewed or (not path.name.endswith(DAMAGED) and left < time.time() - WRITING_SECONDS):
                yield path


def find_damaged(store: ArtifactStore) -> Iterator[Path]:
    """Damaged files that were set aside, whatever was made since."""
    return (path for path in _left_files(store) if path.name.endswith(DAMAGED))


def _left_files(store: ArtifactStore) -> Iterator[Path]:
    """Files below the root that stand for another file; versions, builds and jobs look after their own."""
    apart = {store.root / name for name in (ARTIFACTS, WORK, JOBS)}
    for folder, folders, files in os.walk(store.root):
        folders[:] = sorted(name for name in folders if Path(folder, name) not in apart)
        # A link to a folder is listed among the folders.
        for path in (Path(folder, name) for name in sorted({*files, *folders})):
            if (path.is_symlink() or path.is_file()) and replaced_by(path) is not None:
                yield path


def find_holders(store: ArtifactStore, instance: dg.DagsterInstance, doc_id: str) -> Iterator[Removal]:
    """Every version that holds text of the document ``doc_id`` (corpus-relative path), and whatever killed builds
    left that may hold texts.

    Raises:
        StillNeeded: one of them is current: the document is still part of the corpus.
        UnknownDocument: there is none.
    """
    needed = store.linked() | _current(store, instance) | _served(store)
    holders: set[str] = set()
    # Sets without document ids hold the text if their inputs do.
    named = [asset for asset in store.assets() if asset not in (*MADE_OF_TEXTS, *MODELS)]
    for asset in [*named, *MADE_OF_TEXTS]:
        for version in store.versions(asset):
            folder = store.get(Artifact, asset, version).path
            if not (_mentions(folder, doc_id) or (asset in MADE_OF_TEXTS and holders & _inputs(folder))):
                continue
            if (asset, version) in needed:
                raise StillNeeded(
                    f"{asset} {version} is current and holds {doc_id}: delete the file{_released(store, folder)} "
                    "and run `retune run --to reindex` first"
                )
            holders.add(version)
            yield Removal(asset, version, store.size(asset, version))
    unfinished = [left for left in _unfinished(store) if left.asset not in MODELS]
    if not holders:
        # What is deleted for any document, paid answers among it, must not go for a mistyped name.
        builds = (
            f"; {len(unfinished)} unfinished builds may: finish them with `retune run`" if unfinished else ""
        )
        raise UnknownDocument(
            f"no version in {store.location} holds {doc_id!r}{builds}; nothing was deleted. Name the document by its "
            "path inside the corpus, as `retune search` shows it"
        )
    yield from unfinished


def _released(store: ArtifactStore, folder: Path) -> str:
    """What else has to be done about a version that no run replaces."""
    frozen = store.resolve(FROZEN_EVAL_SET)
    kept = frozen is not None and folder.resolve() in (frozen, *frozen.parents)
    return ", release the frozen eval set (`retune eval-set release`)" if kept else ""


def remove(store: ArtifactStore, removal: Removal) -> None:
    """Delete one version, and its collection where a server holds the index.

    Raises:
        VectorStoreError: the server that holds the index cannot be reached, or refuses; nothing was deleted.
    """
    index = _index_of(store, removal)
    if index is not None:
        # First: a kill in between then leaves a version that is still listed, not rows that no version refers to.
        index.drop()
    delete = store.abandon if removal.unfinished else store.remove
    delete(removal.asset, removal.version)


def _index_of(store: ArtifactStore, removal: Removal) -> PassageIndex | None:
    """The index in what is removed, which may never have been on this machine; only its description is fetched."""
    if removal.unfinished:
        return index_in(store.work_folder(removal.asset, removal.version))
    described = store.read(removal.asset, removal.version, INDEX_MANIFEST)
    folder = store.root / ARTIFACTS / removal.asset / removal.version
    return None if described is None else open_index(folder, json.loads(described)["place"])


def _unfinished(store: ArtifactStore) -> Iterator[Removal]:
    for asset, key in store.unfinished():
        yield Removal(asset, key, bytes_below(store.work_folder(asset, key)), unfinished=True)


def _last_change(folder: Path) -> float:
    return max(each.stat().st_mtime for each in [folder, *folder.rglob("*")])


def _served(store: ArtifactStore) -> set[tuple[str, str]]:
    """The model that the deployed server serves, and the index that searches use as long as it does."""
    digest = served_model(store)
    if digest is None:
        return set()
    found = {(asset, digest) for asset in CHECKPOINTS}
    with suppress(SearchError):
        if index := index_of(store, digest):
            found.add(("vector_index", index.version))
    return found


def _inputs(folder: Path) -> set[str]:
    return set(json.loads((folder / MANIFEST).read_text("utf-8"))["inputs"].values())


def _mentions(folder: Path, doc_id: str) -> bool:
    """Whether a file of the version names the document: every format that holds texts has the document's id too."""
    import pyarrow.compute as pc
    import pyarrow.dataset as ds

    for name in ("documents.parquet", "passages.parquet"):
        if (folder / name).exists():
            column: Any = pc.field("doc_id")
            return ds.dataset(folder / name).count_rows(filter=column == doc_id) > 0
    index = index_in(folder)
    if index is not None:
        return index.holds(doc_id)
    texts = [path for path in folder.rglob("*.json*") if path.name != MANIFEST]
    spellings = {json.dumps(doc_id, ensure_ascii=ascii_only).encode() for ascii_only in (True, False)}
    # A document may be called as a field is: that is followed by a colon.
    value = re.compile(b"(?:" + b"|".join(map(re.escape, spellings)) + rb")(?!\s*:)")
    return bool(doc_id) and any(_occurs(path, value) for path in texts)


def _occurs(path: Path, pattern: re.Pattern[bytes]) -> bool:
    """Whether the pattern occurs in the file, which may be larger than memory."""
    if not path.stat().st_size:
        return False
    with path.open("rb") as stream, mmap(stream.fileno(), 0, access=ACCESS_READ) as content:
        return pattern.search(content) is not None


def _current(store: ArtifactStore, instance: dg.DagsterInstance) -> set[tuple[str, str]]:
    """What the latest materialization of every asset here recorded, the promoted model and the served one included."""
    made = [latest(instance, key, store) for key in instance.get_asset_keys()]
    return {recorded for each in made if each is not None and (recorded := artifact_ref(each)) is not None}
