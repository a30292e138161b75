"""Files at an fsspec URL: small ones read and written whole, large ones transferred with retries.

The clients of the stores (s3fs, gcsfs) retry single requests themselves; transfers are retried here for as long as a
network outage usually lasts.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any, BinaryIO, TypeVar
from urllib.parse import urlsplit, urlunsplit

from storage.artifact_store import ArtifactError
from storage.digests import digest_file
from storage.disk import FULL_ERRNOS
from storage.errors import TransientError
from storage.progress import Progress

PARALLEL_FILES = 4
BLOCK = 16 * 2**20
"""Bytes asked for at once while fetching a file."""

PATIENCE_S = 90.0
"""How long a transfer is retried."""

OBJECT_STORES = frozenset({"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "oci", "oss"})
"""Stores where an object appears atomically under its name, and folders need not be created."""

OPTIONS: Mapping[str, Mapping[str, Any]] = {
    # Parts of 50 MB sent at once per file: this many files side by side must fit into a small machine's memory.
    "s3": {"max_concurrency": 2},
    "s3a": {"max_concurrency": 2},
}
PACKAGES = {
    "s3": "retune-embed[s3]",
    "s3a": "retune-embed[s3]",
    "gs": "retune-embed[gcs]",
    "gcs": "retune-embed[gcs]",
}
CREDENTIALS = {
    "s3": "AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (with AWS_SESSION_TOKEN for temporary ones)",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS, or `gcloud auth application-default login`",
}
FULL_CODES = frozenset(
    {"QuotaExceeded", "XMinioStorageFull", "InsufficientStorage", "InsufficientCapacity", "507"}
)
REFUSED_CODES = frozenset({"400", "403"})
"""Codes of answers without a body, in which S3 gives no reason (an expired token is a 400)."""

T = TypeVar("T")


class RemoteError(ArtifactError):
    """The remote store refuses, is full, or cannot be reached; the message names the URL and what to do."""


class RemoteUnreachable(RemoteError, TransientError):
    """The remote store does not answer, or not with success, for as long as requests are repeated."""


class LocalDiskFull(ArtifactError):
    """This machine's disk is full, or has too little space for a file that is fetched."""


@dataclass(frozen=True)
class RemoteFile:
    """One file of a transfer: its name on both sides, its size and digest."""

    name: str
    bytes: int
    sha256: str


def is_url(root: str) -> bool:
    """Whether a root is an fsspec URL rather than a path."""
    return "://" in root


def check_url(url: str) -> str:
    """The URL without a slash at its end.

    Raises:
        ArtifactError: it contains a password or key, or names no bucket or folder.
    """
    parts = urlsplit(url)
    if "@" in parts.netloc or parts.query or parts.fragment:
        shown = urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
        raise ArtifactError(
            f"artifact_root = {shown!r} with a user name, query or fragment: these are where keys hide. Give the "
            "plain URL, and credentials through the environment of the store's client"
        )
    if not (parts.netloc or parts.path.strip("/")):
        raise ArtifactError(f"artifact_root = {url!r}: names no bucket or folder")
    return url.rstrip("/")


class RemoteRoot:
    """Everything below one URL, by names relative to it (POSIX paths).

    Every method raises `RemoteError` when the remote store fails; FileNotFoundError only where documented.
    """

    def __init__(self, url: str):
        self.url = check_url(url)
        self._scheme = self.url.partition("://")[0]
        self._system, self._root = self._connect()

    # ---- small files ---------------------------------------------------------------------------------------

    def read(self, name: str) -> bytes:
        """One file's content.

        Raises:
            FileNotFoundError: there is no such file (or bucket).
        """
        with self._explained():
            return self._system.cat_file(self._path(name))

    def read_all(self, names: list[str]) -> dict[str, bytes]:
        """The contents of those of the files that exist, fetched in parallel."""
        if not names:
            return {}
        with self._explained():
            paths = {self._path(name): name for name in names}
            answers = self._system.cat(list(paths), on_error="return")
            failures = [answer for answer in answers.values() if isinstance(answer, Exception)]
            for failure in failures:
                if not isinstance(failure, FileNotFoundError):
                    raise failure
            return {paths[path]: answer for path, answer in answers.items() if isinstance(answer, bytes)}

    def write(self, name: str, data: bytes) -> None:
        """Write a small file: readers see the old content or the new, never a part."""
        with self._explained(missing_is_error=True):
            self._put(name, lambda path: self._system.pipe_file(path, data))

    def exists(self, name: str) -> bool:
        """Whether there is such a file."""
        with self._explained():
            return self._system.exists(self._path(name))

    def list(self, folder: str) -> list[str]:
        """The names directly below a folder; none if it does not exist."""
        with self._explained():
            try:
                found = self._system.ls(self._path(folder), detail=False)
            except FileNotFoundError:
                return []
            return sorted(Path(path).name for path in found if Path(path).name != Path(folder).name)

    def sizes(self, folder: str) -> dict[str, int]:
        """Bytes of every file at any depth below a folder, by its path below that folder."""
        with self._explained():
            try:
                found = self._system.find(self._path(folder), detail=True)
            except FileNotFoundError:
                return {}
            start = len(self._path(folder)) + 1
            return {str(path)[start:]: int(info["size"]) for path, info in found.items()}

    def remove(self, name: str) -> None:
        """Delete one file, or a folder with all below it; nothing if it is not there."""
        with self._explained():
            try:
                self._system.rm(self._path(name), recursive=True)
            except FileNotFoundError:
                return

    # ---- transfers -----------------------------------------------------------------------------------------

    def send(self, folder: Path, files: list[RemoteFile], target: str, progress: Progress) -> None:
        """Copy ``files`` of a local folder to the remote folder ``target``.

        ``target`` must be named by the files' content: a file that exists there with the right size is not sent again.
        """
        there = self.sizes(target)

        def send_one(file: RemoteFile, given_up: Event) -> None:
            if there.get(file.name) != file.bytes:
                source, name = str(folder / file.name), f"{target}/{file.name}"
                self._patiently(
                    lambda: self._put(name, lambda path: self._system.put_file(source, path)), given_up
                )

        self._side_by_side(send_one, files, f"bytes to {self.url}", progress)

    def fetch(self, source: str, files: list[RemoteFile], folder: Path, progress: Progress) -> None:
        """Copy ``files`` of the remote folder ``source`` to a local folder. Files that exist and are right are not
        fetched again, and an interrupted one is resumed.

        Raises:
            RemoteError: also when a file does not have its digest.
            LocalDiskFull: the disk of ``folder`` is full.
        """

        def fetch_one(file: RemoteFile, given_up: Event) -> None:
            target = folder / file.name
            if not (target.exists() and digest_file(target) == file.sha256):
                self._patiently(lambda: self._fetch(f"{source}/{file.name}", file, target), given_up)

        self._side_by_side(fetch_one, files, f"bytes from {self.url}", progress)

    def _fetch(self, name: str, file: RemoteFile, target: Path) -> None:
        try:
            self._fetch_rest(name, file, target)
        except OSError as error:
            if error.errno in FULL_ERRNOS:
                raise LocalDiskFull(str(target.parent)) from None
            raise

    def _fetch_rest(self, name: str, file: RemoteFile, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f".{target.name}.part")
        with part.open("ab") as stream:
            if stream.tell() < file.bytes:
                self._copy(name, stream)
        if part.stat().st_size != file.bytes or digest_file(part) != file.sha256:
            part.unlink()
            raise RemoteError(self._damaged(name))
        part.replace(target)

    def _copy(self, name: str, stream: BinaryIO) -> None:
        try:
            with self._system.open(self._path(name), "rb", block_size=BLOCK) as remote:
                remote.seek(stream.tell())
                shutil.copyfileobj(remote, stream, BLOCK)
        except FileNotFoundError:
            raise RemoteError(self._damaged(name)) from None

    def _damaged(self, name: str) -> str:
        version = "/".join(name.split("/")[:3])
        return f"{self.url}/{name} is missing or damaged: delete {self.url}/{version} and run again"

    def _side_by_side(
        self,
        work: Callable[[RemoteFile, Event], None],
        files: list[RemoteFile],
        unit: str,
        progress: Progress,
    ) -> None:
        total, done = sum(file.bytes for file in files), 0
        given_up = Event()
        with ThreadPoolExecutor(PARALLEL_FILES) as pool:
            futures = [pool.submit(work, file, given_up) for file in files]
            try:
                for file, future in zip(files, futures, strict=True):
                    future.result()
                    done += file.bytes
                    progress(done, total, unit)
            except BaseException:
                given_up.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _patiently(self, transfer: Callable[[], T], given_up: Event) -> T:
        from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_random_exponential
        from tenacity.stop import stop_when_event_set

        again = Retrying(
            retry=retry_if_exception(is_transient),
            stop=stop_after_delay(PATIENCE_S) | stop_when_event_set(given_up),
            wait=wait_random_exponential(multiplier=0.5, max=15),
            reraise=True,
        )
        with self._explained(missing_is_error=True):
            return again(transfer)

    # ---- the file system -----------------------------------------------------------------------------------

    def _connect(self) -> tuple[Any, str]:
        import fsspec  # pyright: ignore[reportMissingTypeStubs]

        connect: Any = fsspec.url_to_fs  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]

        options = OPTIONS.get(self._scheme, {})
        try:
            # Nothing is cached: other machines write to the store too.
            system, root = connect(
                self.url, use_listings_cache=False, skip_instance_cache=self._scheme != "memory", **options
            )
        except ImportError as error:
            package = PACKAGES.get(self._scheme)
            fix = f"pip install '{package}'" if package else str(error)
            raise RemoteError(f"artifact_root = {self.url!r}: its client is not installed: {fix}") from None
        except Exception as error:  # noqa: BLE001
            raise _as_remote_error(self.url, error) from None
        return system, str(root).rstrip("/")

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}".rstrip("/")

    def _put(self, name: str, put: Callable[[str], Any]) -> None:
        path = self._path(name)
        if self._scheme in OBJECT_STORES:
            put(path)
            return
        self._system.makedirs(path.rpartition("/")[0], exist_ok=True)
        put(f"{path}.part")
        self._system.mv(f"{path}.part", path)

    @contextmanager
    def _explained(self, *, missing_is_error: bool = False) -> Generator[None]:
        try:
            yield
        except ArtifactError:
            raise
        except FileNotFoundError as error:
            if missing_is_error:
                raise RemoteError(explain(self.url, error)) from None
            raise
        except Exception as error:  # noqa: BLE001
            # Without its cause: a client's message may contain credentials.
            raise _as_remote_error(self.url, error) from None


# ---- errors --------------------------------------------------------------------------------------------------


def is_transient(error: BaseException) -> bool:
    """Whether the same request may succeed a little later."""
    permanent = (PermissionError, FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError)
    if isinstance(error, (ArtifactError, *permanent)) or not isinstance(error, Exception):
        return False
    return not (_is_full(error) or _is_refusal(error) or isinstance(error, (TypeError, ValueError)))


def _as_remote_error(url: str, error: Exception) -> RemoteError:
    return (RemoteUnreachable if is_transient(error) else RemoteError)(explain(url, error))


def explain(url: str, error: Exception) -> str:
    """A message for an error of a store's client, with nothing of the client's own message but its error code."""
    scheme, code = url.partition("://")[0], _code(error)
    if _is_full(error):
        return f"{url} is full ({code}): free space there or raise its quota, then run the same command: it goes on"
    if isinstance(error, FileNotFoundError):
        return f"{url}: no such bucket or folder ({code}): make it, or correct artifact_root"
    if _is_refusal(error):
        known = CREDENTIALS.get({"s3a": "s3", "gcs": "gs"}.get(scheme, scheme), "credentials of its client")
        return (
            f"{url}: access refused ({code}): credentials are missing, wrong or expired, or may not read, write and "
            f"list there. Set {known}, and run the same command: finished work is kept"
        )
    return (
        f"{url} cannot be reached ({code}): check its address (AWS_ENDPOINT_URL where the store is not Amazon's) and "
        "the network, then run the same command: finished work is kept"
    )


def _code(error: BaseException) -> str:
    for each in (error, error.__cause__):
        response: Any = getattr(each, "response", None)
        if hasattr(response, "get") and "Error" in response:
            return str(response["Error"].get("Code", ""))
    return type(error).__name__


def _is_full(error: BaseException) -> bool:
    return getattr(error, "errno", None) in FULL_ERRNOS or _code(error) in FULL_CODES


def _is_refusal(error: BaseException) -> bool:
    words = f"{type(error).__name__} {_code(error)}"
    return (
        isinstance(error, PermissionError)
        or _code(error) in REFUSED_CODES
        or any(
            word in words
            for word in ("Credential", "Token", "AccessKey", "AuthError", "Forbidden", "Unauthorized")
        )
    )
