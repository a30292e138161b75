"""The artifact store: each artifact is built once per set of inputs, published atomically, and immutable.

This is the store in a local folder; `storage.remote_store` has the store at a URL, and opens either.

Layout under the root::

    artifacts/<asset>/<version>/   content-addressed; manifest.json is part of every version
    keys/<asset>/<key>             the version that a build key led to
    .work/<asset>/<key>/           a build in progress; kept when the process is killed, resumed by the same key
    .store-id                      the unique id of this store
    .deletion.lock                 held while versions are deleted
    stage1_data_prep/... etc.      links with the recipe's names to current versions (`storage.paths`)

A *build key* is the digest of everything that determines an artifact (logic, settings, input versions). A
*version* is the digest of its content. Equal keys are never built twice, and different keys that lead to the same
bytes share one version.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout

from storage.artifacts import Artifact
from storage.digests import digest_file, digest_json, digest_tree
from storage.disk import has_space, is_disk_full
from storage.errors import ArtifactError
from storage.files import make_read_only, remove_temporaries, temporary_name, write_atomic, write_json
from storage.manifest import MANIFEST, check_link, is_inside, read_manifest, safe_name, safe_part
from storage.paths import ARTIFACTS, BUILD_KEYS, SET_ASIDE, VERIFIED_FILES, WORK
from storage.progress import Progress, no_progress
from storage.verification import first_damaged

IDENTITY = ".store-id"
DELETION_LOCK = ".deletion.lock"


@dataclass(frozen=True)
class BuildKey:
    """What determines an artifact: the logic and settings (``code_version``) and the versions of its inputs."""

    asset: str
    code_version: str
    inputs: Mapping[str, str]

    @property
    def digest(self) -> str:
        return digest_json([self.asset, self.code_version, dict(self.inputs)])


A = TypeVar("A", bound=Artifact)


class ArtifactStore:
    """Publishes, finds and links artifact versions below one root folder. ``progress`` is called during long
    transfers."""

    def __init__(self, root: Path):
        self.root = root.absolute()
        self.progress: Progress = no_progress

    @property
    def location(self) -> str:
        """The store's folder or URL, for messages."""
        return str(self.root)

    def identity(self) -> str:
        """The unique id of this store: made at the first call and kept in the folder, so that it moves with it."""
        path = self.root / IDENTITY
        if not path.exists():
            self.root.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{path}.lock"):
                if not path.exists():
                    write_atomic(path, uuid.uuid4().hex)
        return path.read_text()

    def check(self) -> None:
        """Check that the store can be written, changing nothing.

        Raises:
            ArtifactError: it cannot; the message says why.
        """
        try:
            existing = next(folder for folder in [self.root, *self.root.parents] if folder.exists())
            made = (self.root / name for name in (ARTIFACTS, BUILD_KEYS, WORK))
            below = [each for folder in made if folder.is_dir() for each in (folder, *folder.iterdir())]
            closed = [
                folder
                for folder in (existing, *(each for each in below if each.is_dir()))
                if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK)
            ]
        except PermissionError as error:
            raise ArtifactError(
                f"{error.filename} cannot be reached by this user: one of its folders may not be entered or read. Set "
                "its permissions, or another artifact_root"
            ) from error
        if closed:
            raise ArtifactError(
                f"{closed[0]} cannot be written by this user: set its permissions, or another artifact_root"
            )

    # ---- building ------------------------------------------------------------------------------------------

    def build(self, kind: type[A], key: BuildKey, produce: Callable[[Path], None]) -> A:
        """Return the artifact for ``key``, calling ``produce(folder)`` only if it was never built.

        ``produce`` writes into a folder that may have files of an interrupted earlier attempt. The version is
        published by one rename after all files are written and hashed, so a process killed at any moment leaves
        either the complete version or none. Two processes with one key wait for each other.

        Raises:
            ArtifactError: the disk is full (what was made so far stays in the work folder).
        """
        found = self.find(kind, key)
        if found is not None:
            return found
        work = self.work_folder(key.asset, key.digest)
        with self.reported_when_full(f"making {key.asset}"):
            work.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{work}.lock"):
                found = self._found_or_resumed(kind, key)
                if found is not None:
                    return found
                work.mkdir(exist_ok=True)
                remove_temporaries(
                    work
                )  # else they would be published, and change the version where they are content
                produce(work)
                return self._publish(kind, key, work)

    def forget(self, key: BuildKey) -> None:
        """Delete the record of ``key`` and the files of an interrupted attempt, so that it is built again."""
        (self.root / BUILD_KEYS / key.asset / key.digest).unlink(missing_ok=True)
        shutil.rmtree(self.work_folder(key.asset, key.digest), ignore_errors=True)

    def unfinished(self) -> Iterator[tuple[str, str]]:
        """(asset, digest of the build key) of interrupted builds: started, and not running now."""
        for work in sorted((self.root / WORK).glob("[!.]*/*")):
            if work.is_dir() and _is_free(FileLock(f"{work}.lock")):
                yield work.parent.name, work.name

    def abandon(self, asset: str, key: str) -> None:
        """Delete the files of an unfinished build; a running build is waited for, and its version stays."""
        work = self.work_folder(asset, key)
        with FileLock(f"{work}.lock"):
            shutil.rmtree(work, ignore_errors=True)

    def work_folder(self, asset: str, key: str) -> Path:
        """The folder in which the build with this key is made."""
        return self.root / WORK / asset / key

    def find(self, kind: type[A], key: BuildKey) -> A | None:
        """The artifact that an earlier build of ``key`` made, or None if there is no complete one."""
        memo = self.root / BUILD_KEYS / key.asset / key.digest
        if not memo.exists():
            return None
        try:
            return self.get(kind, key.asset, memo.read_text().strip())
        except ArtifactError:
            return None

    def _found_or_resumed(self, kind: type[A], key: BuildKey) -> A | None:
        """Called with the key's lock held: what another process has made in the meantime."""
        return self.find(kind, key)

    def _publish(self, kind: type[A], key: BuildKey, work: Path) -> A:
        files = {name: _entry(work / name) for name in _files(work)}
        if not any(kind.is_content(name) for name in files):
            raise ArtifactError(f"{key.asset}: the build wrote none of its content files {kind.content}")
        version = _content_digest(kind, files)
        manifest = {
            "schema_version": 1,
            "asset": key.asset,
            "version": version,
            "code_version": key.code_version,
            "inputs": dict(key.inputs),
            "created": datetime.now(UTC).isoformat(timespec="microseconds"),
            "files": files,
        }
        write_json(work / MANIFEST, manifest, ensure_ascii=True)
        target = self._folder(key.asset, version)
        target.parent.mkdir(parents=True, exist_ok=True)
        published = kind(path=target, asset=key.asset, version=version)
        if self._whole(target) and self._damage(published) is None:
            shutil.rmtree(work)
        else:
            shutil.rmtree(target, ignore_errors=True)
            work.rename(target)
            make_read_only(target)  # not before: a build that is killed here goes on in its work folder
        self._remember(key, version)
        return self.get(kind, key.asset, version)

    def _remember(self, key: BuildKey, version: str) -> None:
        memo = self.root / BUILD_KEYS / key.asset / key.digest
        memo.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(memo, version)

    # ---- reading -------------------------------------------------------------------------------------------

    def get(self, kind: type[A], asset: str, version: str) -> A:
        """One published version.

        Raises:
            ArtifactError: it is not in the store, or files of it are missing or cut short.
        """
        folder = self._folder(asset, version)
        if not (folder / MANIFEST).exists():
            raise ArtifactError(self._absent(asset, version))
        if not self._whole(folder):
            raise ArtifactError(f"{asset} {version} in {folder} is damaged: delete that folder and run again")
        return kind(path=folder, asset=asset, version=version)

    def verify(self, artifact: Artifact, *, anew: bool = False) -> None:
        """Check that every file of a version is what was published, and that the version is its content's digest.

        A file that was hashed before and has not changed since is not hashed again, unless ``anew``.

        Raises:
            ArtifactError: one is not; the message names it.
        """
        damage = self._damage(artifact, anew=anew)
        if damage is not None:
            raise ArtifactError(
                f"{artifact.asset} {artifact.version}: {damage} is not what was published: delete "
                f"{artifact.path} and run again"
            )

    def _damage(self, artifact: Artifact, *, anew: bool = False) -> str | None:
        """The first file of a version that is not what was published."""
        try:
            files = self._manifest(artifact.asset, artifact.version)["files"]
        except (OSError, ArtifactError):
            return MANIFEST
        if _content_digest(type(artifact), files) != artifact.version:
            return MANIFEST
        return first_damaged(artifact.path, files, self._record(artifact.asset, artifact.version), anew=anew)

    def _record(self, asset: str, version: str) -> Path:
        """Where it is kept which files of the version were found right."""
        return self.root / VERIFIED_FILES / safe_part(asset) / f"{safe_part(version)}.json"

    def has(self, asset: str, version: str) -> bool:
        """Whether the version is published here and complete."""
        return self._whole(self._folder(asset, version))

    def versions(self, asset: str) -> list[str]:
        """All complete versions of an asset, newest first."""
        folders = [folder for folder in (self.root / ARTIFACTS / asset).glob("*") if self._whole(folder)]
        folders.sort(key=lambda folder: (folder / MANIFEST).stat().st_mtime, reverse=True)
        return [folder.name for folder in folders]

    def assets(self) -> list[str]:
        """Names of all assets that have versions."""
        return sorted(folder.name for folder in (self.root / ARTIFACTS).glob("*"))

    def read(self, asset: str, version: str, name: str) -> bytes | None:
        """One file of a version, without the others; None if it has no such file."""
        folder = self._folder(asset, version)
        path = folder / safe_name(name)
        return path.read_bytes() if path.is_file() and is_inside(path, folder) else None

    def size(self, asset: str, version: str) -> int:
        """Bytes of one version, as its manifest has them."""
        manifest = self._manifest(asset, version)
        return sum(entry["bytes"] for entry in manifest["files"].values())

    def half_removed(self) -> Iterator[tuple[str, str]]:
        """(asset, version) of what a killed `remove` left on this machine: a folder that has no manifest any more."""
        for folder in sorted((self.root / ARTIFACTS).glob("[!.]*/[!.]*")):
            if folder.is_dir() and not (folder / MANIFEST).exists():
                yield folder.parent.name, folder.name

    @contextmanager
    def deletion(self) -> Generator[None]:
        """Held while versions are deleted; one process at a time, and :meth:`await_deletion` waits for it."""
        self.root.mkdir(parents=True, exist_ok=True)
        with FileLock(self.root / DELETION_LOCK):
            yield

    def await_deletion(self, waiting: Callable[[], None]) -> None:
        """Return once no process on this machine deletes versions; calls ``waiting`` if one does now."""
        path = self.root / DELETION_LOCK
        if path.exists() and not _is_free(FileLock(path)):
            waiting()
            with FileLock(path):
                pass

    def remove(self, asset: str, version: str) -> None:
        """Delete one version: what refers to it first, then its manifest, so that an interrupted deletion leaves a
        whole version or what `half_removed` finds."""
        folder = self._folder(asset, version)
        for memo in (self.root / BUILD_KEYS / asset).glob("*"):
            if memo.read_text().strip() == version:
                memo.unlink()
        self._record(asset, version).unlink(missing_ok=True)
        (folder / MANIFEST).unlink(missing_ok=True)
        if folder.exists():
            shutil.rmtree(folder)

    def set_aside(self, artifact: Artifact) -> Path:
        """Take a version out of the store, so that nothing uses it or finds it again, and keep its files for a person
        to look at, in place of the asset's version that was set aside before; returns their folder."""
        kept = self.root / SET_ASIDE / artifact.asset
        shutil.rmtree(kept, ignore_errors=True)
        shutil.copytree(artifact.path, kept / artifact.version, symlinks=True)
        self.remove(artifact.asset, artifact.version)
        return kept / artifact.version

    def address(self, artifact: Artifact) -> str:
        """The folder or URL of an artifact, for messages."""
        return str(artifact.path)

    def _absent(self, asset: str, version: str) -> str:
        return (
            f"{asset} {version} is not in {self.location}: materialize '{asset}' again, "
            "or point artifact_root at the store that has it"
        )

    def _folder(self, asset: str, version: str) -> Path:
        return self.root / ARTIFACTS / safe_part(asset) / safe_part(version)

    def _manifest(self, asset: str, version: str) -> dict[str, Any]:
        """Raises OSError if there is none, ArtifactError if it is not a manifest of this version."""
        path = self._folder(asset, version) / MANIFEST
        return read_manifest(path.read_bytes(), asset, version, str(path))

    def _whole(self, folder: Path) -> bool:
        """Whether every file of the version exists in its folder with its size (hashes are not recomputed)."""
        try:
            files = self._manifest(folder.parent.name, folder.name)["files"]
            return all(
                (folder / name).stat().st_size == entry["bytes"] and is_inside(folder / name, folder)
                for name, entry in files.items()
            )
        except (OSError, ArtifactError):
            return False

    # ---- names ---------------------------------------------------------------------------------------------

    def link(self, name: str, target: Path) -> Path:
        """Point the recipe-named path ``name`` (relative to the root) at ``target``, atomically."""
        link = self.root / name
        check_link(name, os.path.relpath(target, self.root))
        link.parent.mkdir(parents=True, exist_ok=True)
        if link.is_dir() and not link.is_symlink():
            raise ArtifactError(f"{link} is a folder that Retune did not make: move it away and run again")
        temporary = temporary_name(link)
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(os.path.relpath(target, link.parent), target_is_directory=target.is_dir())
        temporary.replace(link)
        return link

    def unlink(self, name: str) -> None:
        """Remove the recipe-named path, if it exists."""
        (self.root / name).unlink(missing_ok=True)

    def resolve(self, name: str) -> Path | None:
        """The target of the recipe-named path on this machine (which may have been deleted); None if there is no such
        path.

        Raises:
            ArtifactError: it leads out of the store's versions.
        """
        link = self.root / name
        if not link.is_symlink():
            return None
        target = link.resolve()
        if self._version_at(target) is None:
            raise ArtifactError(
                f"{link} leads to {target}, which is not a version below {self.root / ARTIFACTS}: delete that link "
                "and run again"
            )
        return target

    def linked(self) -> set[tuple[str, str]]:
        """(asset, version) of every version that a recipe-named path points at or into."""
        found: set[tuple[str, str]] = set()
        for link in self._links():
            version = self._version_at(link.resolve())
            if version is not None:
                found.add(version)
        return found

    def _version_at(self, target: Path) -> tuple[str, str] | None:
        """(asset, version) of the version that a resolved path is, or is inside of."""
        artifacts = (self.root / ARTIFACTS).resolve()
        parts = target.relative_to(artifacts).parts if artifacts in target.parents else ()
        return (parts[0], parts[1]) if len(parts) > 1 else None

    def _links(self) -> Iterator[Path]:
        """The links below the root; other processes may delete folders meanwhile, or the root is not made yet."""
        apart = {self.root / name for name in (ARTIFACTS, BUILD_KEYS, WORK)}
        for parent, folders, files in os.walk(self.root, onerror=_raise_unless_gone):
            paths = [Path(parent, name) for name in (*folders, *files)]
            folders[:] = [name for name in folders if Path(parent, name) not in apart]
            yield from (path for path in paths if path.is_symlink())

    # ---- a full disk ---------------------------------------------------------------------------------------

    @contextmanager
    def reported_when_full(self, doing: str) -> Generator[None]:
        """Raises errors that a full disk caused as an :class:`ArtifactError` that says what to do."""
        try:
            yield
        except ArtifactError:
            raise
        except Exception as error:
            explanation = self.explain_full_disk(error, doing)
            if explanation is None:
                raise
            raise ArtifactError(explanation) from error

    def explain_full_disk(self, error: Exception, doing: str) -> str | None:
        """What to do, if a full disk caused ``error``; else None."""
        if not is_disk_full(error, self.root):
            return None
        # With space at the root it is another disk that is full: the error names it.
        other = f" ({' '.join(str(error).split())[:300]})" if has_space(self.root) else ""
        return self._disk_full(f"{doing}{other}")

    def _disk_full(self, doing: str) -> str:
        free = shutil.disk_usage(self.root).free / 1e9
        return (
            f"disk full while {doing}: {free:.1f} GB free at {self.root}. Free some space or set "
            "artifact_root to another disk, then run the same command: finished work is reused"
        )


def _raise_unless_gone(error: OSError) -> None:
    # A folder that cannot be read may hold links: what they point at must not count as free.
    if not isinstance(error, FileNotFoundError):
        raise error


def _is_free(lock: FileLock) -> bool:
    """Whether no process holds the lock."""
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return False
    lock.release()
    return True


def _files(folder: Path) -> Iterator[str]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != MANIFEST:
            yield path.relative_to(folder).as_posix()


def _content_digest(kind: type[Artifact], files: Mapping[str, Any]) -> str:
    """The version that files (name -> manifest entry) make: the digest of those that are content."""
    return digest_tree((name, entry["sha256"]) for name, entry in files.items() if kind.is_content(name))


def _entry(path: Path) -> dict[str, str | int]:
    return {"sha256": digest_file(path), "bytes": path.stat().st_size}
