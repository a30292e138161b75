"""Encoders of checkpoints as a resource: one prompt contract, one device, one cache of vectors."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, cast

import dagster as dg

from resources.accelerator import AcceleratorResource
from resources.artifacts import ArtifactStoreResource
from resources.encoders.cached import CachedEncoder
from resources.encoders.recipe import EncoderRecipe
from resources.encoders.sentence_transformer import Precision
from storage.artifacts import Checkpoint
from storage.embedding_cache import EmbeddingCache

CACHE_FOLDER = ".cache/embeddings"


class EncoderResource(dg.ConfigurableResource[Any]):
    """Injected into every step that embeds. Vectors are computed once per model, prompt, length and text."""

    store: dg.ResourceDependency[ArtifactStoreResource]
    accelerator: dg.ResourceDependency[AcceleratorResource]
    query_prefix: str
    passage_prefix: str
    query_max_length: int
    passage_max_length: int
    attn_implementation: str
    precision: str = "fp32"
    batch_size: int = 128

    @contextmanager
    def open(self, checkpoint: Checkpoint, batch_size: int | None = None) -> Generator[CachedEncoder]:
        """The encoder of one checkpoint; its weights are loaded when first needed and freed at the end."""
        with self.recipe(checkpoint, batch_size).make(self.accelerator.get()) as encoder:
            yield CachedEncoder(encoder, EmbeddingCache(self.store.get().root / CACHE_FOLDER))

    def recipe(self, checkpoint: Checkpoint, batch_size: int | None = None) -> EncoderRecipe:
        """How other processes make the encoder of one checkpoint."""
        return EncoderRecipe(
            str(checkpoint.model.absolute()),
            model_digest=checkpoint.version,
            query_prefix=self.query_prefix,
            passage_prefix=self.passage_prefix,
            query_max_length=self.query_max_length,
            passage_max_length=self.passage_max_length,
            attn_implementation=self.attn_implementation,
            precision=cast("Precision", self.precision),
            batch_size=batch_size or self.batch_size,
            device=self.accelerator.device,
            check_memory=self.accelerator.check_memory,
        )
