"""The artifact store as a resource."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dagster as dg

from storage.artifact_store import ArtifactStore


class ArtifactStoreResource(dg.ConfigurableResource[Any]):
    """Injected into every asset. ``root`` is the profile's ``artifact_root``."""

    root: str

    def get(self) -> ArtifactStore:
        return ArtifactStore(Path(self.root).expanduser())
