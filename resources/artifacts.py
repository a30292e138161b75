"""The artifact store as a resource."""

from __future__ import annotations

from typing import Any

import dagster as dg

from storage.artifact_store import ArtifactStore
from storage.opening import open_store


class ArtifactStoreResource(dg.ConfigurableResource[Any]):
    """Injected into every asset. ``root`` is the profile's ``artifact_root``: a folder or an fsspec URL."""

    root: str

    def get(self) -> ArtifactStore:
        return open_store(self.root)
