"""The one way from a profile's ``artifact_root`` to a store."""

from __future__ import annotations

from pathlib import Path

from storage.artifact_store import ArtifactStore
from storage.remote import is_url
from storage.remote_store import RemoteArtifactStore


def open_store(root: str) -> ArtifactStore:
    """The store at a folder or an fsspec URL (``s3://bucket/prefix``, ``gs://``...). Nothing is asked or made yet.

    Raises:
        ArtifactError: the URL holds a key or names no place.
    """
    return RemoteArtifactStore(root) if is_url(root) else ArtifactStore(Path(root).expanduser())
