"""Models of the registry as the benchmarks use them: under the profile's consent, with cached vectors."""

from __future__ import annotations

from collections.abc import Callable

from assets_pkg.sdg.settings import SdgSettings
from resources.accelerator import AcceleratorResource
from resources.encoders.cached_items import CachedItems
from resources.encoders.items import ItemEncoder
from resources.encoders.open import Availability, open_encoder
from resources.encoders.resource import CACHE_FOLDER
from storage.artifact_store import ArtifactStore
from storage.embedding_cache import EmbeddingCache


def opener(
    found: Availability, store: ArtifactStore, accelerator: AcceleratorResource, consent: SdgSettings
) -> Callable[[], ItemEncoder]:
    """Opens the model when it is first needed; the profile's consent for documents holds for it too."""

    def open_it() -> ItemEncoder:
        encoder = open_encoder(
            found,
            accelerator.get(),
            allow_egress=consent.allow_corpus_egress,
            approved_endpoints=consent.approved_endpoints,
        )
        return CachedItems(encoder, EmbeddingCache(store.root / CACHE_FOLDER))

    return open_it
