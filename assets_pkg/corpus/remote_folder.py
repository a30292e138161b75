"""A remote corpus: a folder at any fsspec URL, or in a dataset on the Hugging Face hub.

It is copied to a local folder, which is then read; one on this machine (``file://``) is read where it is. The
fingerprint comes from the listing, without a copy.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from assets_pkg.config.sections.corpus import CorpusSettings
from assets_pkg.corpus.document_source import CorpusError, FileRead, Skipped
from assets_pkg.corpus.local_folder import LocalFolder
from assets_pkg.corpus.metadata_file import METADATA_FILES
from assets_pkg.corpus.readers.registry import EXTENSIONS
from storage.digests import digest_text, digest_tree

_HUB = re.compile(r"hf://(?P<repo>[^/@]+/[^/@]+)(?:@(?P<revision>[^/]+))?(?:/(?P<path>.+?))?/?")
_CHECKSUMS = ("ETag", "etag", "md5Hash", "checksum")
_TIMES = ("LastModified", "updated", "mtime", "last_modified", "created")
_COMMIT = re.compile(r"[0-9a-f]{40}")


class RemoteFolder:
    """A folder at an fsspec URL (``s3://``, ``gs://``, ``https://``, ``memory://``...)."""

    def __init__(self, settings: CorpusSettings, cache: Path | None = None) -> None:
        self._settings, self._cache = settings, cache
        self._url = settings.corpus_dir
        self._copied: tempfile.TemporaryDirectory[str] | None = None
        self._links_within: Path | None = None

    def __len__(self) -> int:
        return len(self._folder)

    def read(self) -> Iterator[FileRead]:
        yield from self._folder.read()

    def left_out(self) -> list[Skipped]:
        return self._folder.left_out()

    def other_files(self) -> Mapping[str, int]:
        return self._folder.other_files()

    def not_read(self) -> Iterable[Skipped]:
        return self._folder.not_read()

    def files_by_type(self) -> Mapping[str, int]:
        return self._folder.files_by_type()

    def figures(self) -> Mapping[str, int]:
        return self._folder.figures()

    def fingerprint(self, digests: list[tuple[str, str]]) -> str:
        return self._listed

    def current_fingerprint(self) -> str:
        """Digest of the files' names and checksums (or sizes and times) in the remote listing now."""
        return self._list()

    def describe_empty(self) -> str:
        return self._folder.describe_empty()

    @cached_property
    def _listed(self) -> str:
        return self._list()

    @cached_property
    def _folder(self) -> LocalFolder:
        _ = self._listed  # listed before the copy, so that a change meanwhile is noticed
        local = self._settings.model_copy(update={"corpus_dir": str(self._copy())})
        return LocalFolder(local, self._cache, self._links_within, known_as=self._url)

    def _list(self) -> str:
        system, root = self._open()
        extensions = self._settings.extensions(EXTENSIONS)
        metadata = {f"{root}/{name}" for name in METADATA_FILES}
        found: dict[str, Any] = self._ask(lambda: system.find(root, detail=True))
        return digest_tree(
            (name.removeprefix(root), _mark(entry))
            for name, entry in found.items()
            if PurePosixPath(name).suffix.lower() in extensions or name in metadata
        )

    def _copy(self) -> Path:
        from fsspec.implementations.local import LocalFileSystem

        system, root = self._open()
        if isinstance(system, LocalFileSystem):  # a copy would have what links lead to, wherever that is
            return Path(root)
        self._copied = tempfile.TemporaryDirectory(prefix="retune-corpus-")
        target = self._copied.name
        self._ask(lambda: system.get(f"{root}/", f"{target}/", recursive=True))
        return Path(target)

    def _open(self) -> tuple[Any, str]:
        import fsspec

        # Listings are not cached: a sensor asks repeatedly in one process whether something changed.
        system, root = self._ask(lambda: fsspec.url_to_fs(self._url, use_listings_cache=False))
        root = str(root).rstrip("/")
        if not self._ask(lambda: system.isdir(root)):
            raise CorpusError(f"corpus.corpus_dir = {self._url!r}: no such folder")
        return system, root

    def _ask(self, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except ImportError as error:
            raise CorpusError(f"corpus.corpus_dir = {self._url!r}: {error}") from error
        except Exception as error:
            reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            raise CorpusError(
                f"corpus.corpus_dir = {self._url!r}: cannot be reached ({reason}): check address and credentials"
            ) from error


def _mark(entry: dict[str, Any]) -> str:
    """What changes with a file's content in the remote listing: its checksum, or else size and time."""
    checksum = next((entry[name] for name in _CHECKSUMS if entry.get(name)), None)
    moment = next((entry[name] for name in _TIMES if entry.get(name)), None)
    return str(checksum) if checksum else f"{entry.get('size')} {moment}"


class HubFolder(RemoteFolder):
    """``hf://owner/name@revision/path``: a folder of a dataset on the Hugging Face hub, cached by its client."""

    def __init__(self, settings: CorpusSettings, cache: Path | None = None) -> None:
        super().__init__(settings, cache)
        match = _HUB.fullmatch(settings.corpus_dir)
        if match is None:
            raise CorpusError(
                f"corpus.corpus_dir = {settings.corpus_dir!r}: must have the form hf://owner/name@revision/path"
            )
        self._repo, self._path = match["repo"], match["path"]
        self._revision: str | None = match["revision"]

    def _list(self) -> str:
        if self._revision and _COMMIT.fullmatch(self._revision):
            return digest_text(self._url)  # a commit never changes
        from huggingface_hub import HfApi

        info = self._ask(lambda: HfApi().dataset_info(self._repo, revision=self._revision))
        return digest_text(f"{self._repo}@{info.sha}/{self._path or ''}")

    def _copy(self) -> Path:
        from huggingface_hub import snapshot_download

        pattern = f"{self._path}/**" if self._path else None
        folder = self._ask(
            lambda: snapshot_download(
                self._repo, repo_type="dataset", revision=self._revision, allow_patterns=pattern
            )
        )
        self._links_within = Path(folder).parent.parent  # a snapshot links to the blobs of its dataset
        return Path(folder) / (self._path or "")

    def _ask(self, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except Exception as error:
            reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            raise CorpusError(
                f"corpus.corpus_dir = {self._url!r}: cannot be loaded from the Hugging Face hub ({reason}): check "
                "the name, the revision, the network, and HF_TOKEN for gated data; or set corpus_dir to a folder"
            ) from error
