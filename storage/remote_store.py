"""An artifact store at an fsspec URL, with a local copy of the artifacts in use; and how stores are opened."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import socket
from functools import cached_property, lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from filelock import FileLock

from storage.artifact_store import ArtifactError, ArtifactStore, BuildKey
from storage.artifacts import Artifact
from storage.digests import digest_text, digest_tree
from storage.files import make_read_only, write_json
from storage.manifest import MANIFEST, check_link, read_manifest, safe_part
from storage.paths import ARTIFACTS, BUILD_KEYS, WORK
from storage.remote import LocalDiskFull, RemoteError, RemoteFile, RemoteRoot, check_url, is_url

CACHE_ENVIRONMENT = "RETUNE_CACHE"
MARKER = "retune-store.json"
SCHEMA_VERSION = 1

A = TypeVar("A", bound=Artifact)

log = logging.getLogger(__name__)


def cache_folder() -> Path:
    """The folder that ``RETUNE_CACHE`` names, or ``retune`` in the user's cache folder."""
    import platformdirs

    base = os.environ.get(CACHE_ENVIRONMENT) or platformdirs.user_cache_dir("retune")
    return Path(base).expanduser().absolute()


def local_folder(url: str) -> Path:
    """The folder of this machine's copy of the store at ``url``, below `cache_folder`."""
    readable = re.sub(r"[^A-Za-z0-9]+", "-", url).strip("-")[:60]
    return cache_folder() / "stores" / f"{readable}-{digest_text(url)[:8]}"


@lru_cache(maxsize=8)
def open_remote(url: str) -> RemoteRoot:
    """The remote store, checked once per process to be one that can be read; created if the URL is empty.

    Raises:
        RemoteError: no such bucket, no access, or a store of a newer Retune.
    """
    remote = RemoteRoot(url)
    if MARKER not in remote.list(""):
        remote.write(MARKER, json.dumps({"schema_version": SCHEMA_VERSION}).encode())
        return remote
    try:
        version = json.loads(remote.read(MARKER))["schema_version"]
    except (ValueError, TypeError, KeyError):
        raise RemoteError(
            f"{url}/{MARKER} has no schema_version: this is not a store of Retune; set another artifact_root"
        ) from None
    if version != SCHEMA_VERSION:
        raise RemoteError(
            f"{url} was made by another version of Retune: update Retune, or set another artifact_root"
        )
    return remote


class RemoteArtifactStore(ArtifactStore):
    """An `ArtifactStore` at a URL. ``root`` is the folder of this machine's copy; opening it sends no request."""

    def __init__(self, url: str, folder: Path | None = None):
        self.url = check_url(url)
        super().__init__(folder or local_folder(self.url))

    @property
    def location(self) -> str:
        return self.url

    def identity(self) -> str:
        return self.url

    @cached_property
    def _remote(self) -> RemoteRoot:
        remote = open_remote(self.url)
        if not self.root.exists():
            self._restore_links(remote)
        return remote

    def check(self) -> None:
        """Check that the remote store can be read and written.

        Raises:
            ArtifactError: it cannot; the message says why.
        """
        name = f".checks/{socket.gethostname()}-{os.getpid()}"
        self._remote.write(name, b"")
        self._remote.remove(name)

    # ---- building ------------------------------------------------------------------------------------------

    def forget(self, key: BuildKey) -> None:
        self._remote.remove(_memo(key))
        super().forget(key)

    def find(self, kind: type[A], key: BuildKey) -> A | None:
        try:
            version = self._remote.read(_memo(key)).decode().strip()
        except FileNotFoundError:
            return None
        return self.get(kind, key.asset, version) if self.has(key.asset, version) else None

    def _found_or_resumed(self, kind: type[A], key: BuildKey) -> A | None:
        found = self.find(kind, key)
        if found is not None:
            return found
        made = super().find(kind, key)
        if made is not None and self._damage(made) is None:
            self._send(key, made)
            return made
        self.check()  # a build of hours must not fail when it is uploaded
        return None

    def _publish(self, kind: type[A], key: BuildKey, work: Path) -> A:
        made = super()._publish(kind, key, work)
        self._send(key, made)
        return made

    def _send(self, key: BuildKey, made: Artifact) -> None:
        if not self.has(made.asset, made.version):
            manifest = json.loads((made.path / MANIFEST).read_text("utf-8"))
            files = _files(manifest)
            content = _content(manifest)
            target = _address(made.asset, made.version)
            self._remote.send(made.path, files, f"{target}/{content}", self.progress)
            described = json.dumps({**manifest, "content": content}, indent=1)
            self._remote.write(f"{target}/{MANIFEST}", described.encode())
        self._remote.write(_memo(key), made.version.encode())

    # ---- reading -------------------------------------------------------------------------------------------

    def get(self, kind: type[A], asset: str, version: str) -> A:
        if not self._whole(self._folder(asset, version)):
            self._bring(asset, version)
        return super().get(kind, asset, version)

    def verify(self, artifact: Artifact, *, anew: bool = False) -> None:
        """As `ArtifactStore.verify`; what is damaged on this machine is fetched again."""
        damage = self._damage(artifact, anew=anew)
        if damage is None:
            return
        log.warning(
            "%s %s: %s in %s is damaged: fetching it again from %s",
            artifact.asset,
            artifact.version,
            damage,
            artifact.path,
            self.url,
        )
        (artifact.path / MANIFEST).unlink(missing_ok=True)
        self._bring(artifact.asset, artifact.version)
        super().verify(artifact)

    def versions(self, asset: str) -> list[str]:
        folder = f"{ARTIFACTS}/{safe_part(asset)}"
        names = {f"{folder}/{each}/{MANIFEST}": each for each in self._remote.list(folder)}
        manifests = [
            read_manifest(text, asset, names[name], f"{self.url}/{name}")
            for name, text in self._remote.read_all(list(names)).items()
        ]
        manifests.sort(key=lambda manifest: manifest["created"], reverse=True)
        return [manifest["version"] for manifest in manifests]

    def assets(self) -> list[str]:
        return self._remote.list(ARTIFACTS)

    def read(self, asset: str, version: str, name: str) -> bytes | None:
        manifest = self._sent_manifest(asset, version)
        if name not in manifest["files"]:
            return None
        return self._remote.read(f"{_address(asset, version)}/{manifest['content']}/{name}")

    def size(self, asset: str, version: str) -> int:
        return sum(file.bytes for file in _files(self._sent_manifest(asset, version)))

    def remove(self, asset: str, version: str) -> None:
        folder = _address(asset, version)
        self._remote.remove(f"{folder}/{MANIFEST}")
        self._remote.remove(folder)
        keys = f"{BUILD_KEYS}/{asset}"
        memos = self._remote.read_all([f"{keys}/{key}" for key in self._remote.list(keys)])
        for name, text in memos.items():
            if text.decode().strip() == version:
                self._remote.remove(name)
        super().remove(asset, version)

    def address(self, artifact: Artifact) -> str:
        return f"{self.url}/artifacts/{artifact.asset}/{artifact.version}"

    def has(self, asset: str, version: str) -> bool:
        return self._remote.exists(f"{_address(asset, version)}/{MANIFEST}")

    def _sent_manifest(self, asset: str, version: str) -> dict[str, Any]:
        name = f"{_address(asset, version)}/{MANIFEST}"
        try:
            text = self._remote.read(name)
        except FileNotFoundError:
            raise ArtifactError(self._absent(asset, version)) from None
        manifest = read_manifest(text, asset, version, f"{self.url}/{name}")
        if manifest.get("content") != _content(manifest):
            raise ArtifactError(
                f"{self.url}/{name}: content is not the digest of its files: delete {self.url}/"
                f"{_address(asset, version)} and run again"
            )
        return manifest

    def _bring(self, asset: str, version: str) -> None:
        """Fetch a version to this machine, under another name first, so that a partial copy is never used."""
        manifest = self._sent_manifest(asset, version)
        partial = self.root / WORK / ".fetched" / asset / version
        doing = f"fetching {asset}"
        try:
            with self.reported_when_full(doing):
                self._fetch(manifest, partial, self._folder(asset, version))
        except LocalDiskFull as error:
            raise ArtifactError(self._disk_full(doing)) from error

    def _fetch(self, manifest: dict[str, Any], partial: Path, target: Path) -> None:
        partial.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{partial}.lock"):
            if self._whole(target):
                return
            partial.mkdir(exist_ok=True)
            source = f"{_address(manifest['asset'], manifest['version'])}/{manifest['content']}"
            self._remote.fetch(source, _files(manifest), partial, self.progress)
            write_json(partial / MANIFEST, manifest, ensure_ascii=True)
            shutil.rmtree(target, ignore_errors=True)
            target.parent.mkdir(parents=True, exist_ok=True)
            partial.rename(target)
            make_read_only(target)

    # ---- names ---------------------------------------------------------------------------------------------

    def link(self, name: str, target: Path) -> Path:
        relative = target.absolute().relative_to(self.root).as_posix()
        link = super().link(name, target)
        self._remote.write(f"links/{name}", relative.encode())
        return link

    def unlink(self, name: str) -> None:
        self._remote.remove(f"links/{name}")
        super().unlink(name)

    def resolve(self, name: str) -> Path | None:
        try:
            relative = self._remote.read(f"links/{name}").decode()
        except FileNotFoundError:
            super().unlink(name)
            return None
        asset, version = self._checked(name, relative)
        target = self.root / relative
        if self.has(asset, version):
            self.get(Artifact, asset, version)
        super().link(name, target)
        return target

    def linked(self) -> set[tuple[str, str]]:
        targets = self._restore_links(self._remote)
        return {self._checked(name, target) for name, target in targets.items()}

    def _restore_links(self, remote: RemoteRoot) -> dict[str, str]:
        """Set this machine's links to the remote store's targets, fetched or not; returns name -> target."""
        texts = remote.read_all([f"links/{name}" for name in remote.sizes("links")])
        found = {name.removeprefix("links/"): text.decode() for name, text in texts.items()}
        for name, relative in found.items():
            self._checked(name, relative)
            super().link(name, self.root / relative)
        return found

    def _checked(self, name: str, target: str) -> tuple[str, str]:
        """(asset, version) of a link's target; raises ArtifactError if the link leads out of the versions."""
        try:
            found = check_link(name, target)
            # A folder that is itself a link: the new one would be made where that leads.
            if any((self.root / each).is_symlink() for each in list(PurePosixPath(name).parents)[:-1]):
                raise ArtifactError(f"link {name!r} lies below another link")
        except ArtifactError as error:
            raise ArtifactError(
                f"{self.url}: {error}: delete {self.url}/links/{name} and run again"
            ) from None
        return found

    def _disk_full(self, doing: str) -> str:
        free = shutil.disk_usage(self.root).free / 1e9
        return (
            f"disk full while {doing}: {free:.1f} GB free at {self.root}, this machine's copy of "
            f"{self.url}. Free some space or set {CACHE_ENVIRONMENT} to a folder on another disk, then run the same "
            "command: finished work is reused"
        )


def _memo(key: BuildKey) -> str:
    return f"{BUILD_KEYS}/{key.asset}/{key.digest}"


def _address(asset: str, version: str) -> str:
    return f"{ARTIFACTS}/{safe_part(asset)}/{safe_part(version)}"


def _content(manifest: dict[str, Any]) -> str:
    """The digest of all files: the folder in which they lie at the URL."""
    return digest_tree((file.name, file.sha256) for file in _files(manifest))


def _files(manifest: dict[str, Any]) -> list[RemoteFile]:
    return [RemoteFile(name, each["bytes"], each["sha256"]) for name, each in manifest["files"].items()]


def open_store(root: str) -> ArtifactStore:
    """The store at a folder or an fsspec URL (``s3://bucket/prefix``, ``gs://``...). Nothing is read or created yet.

    Raises:
        ArtifactError: the URL contains a credential, or names no bucket or folder.
    """
    return RemoteArtifactStore(root) if is_url(root) else ArtifactStore(Path(root).expanduser())
