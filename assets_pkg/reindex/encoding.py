"""What embeds the corpus: the promoted model here, or the deployed server of that very model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager

from assets_pkg.deploy.contract import DeployError
from assets_pkg.deploy.interface import interface_of
from assets_pkg.deploy.served_encoder import ServedEncoder
from assets_pkg.deploy.server import server_of
from assets_pkg.deploy.settings import DeploySettings
from assets_pkg.reindex.searcher import STATE_FOLDER
from resources.encoders.cached import CachedEncoder
from resources.encoders.resource import CACHE_FOLDER
from storage.artifact_store import ArtifactStore
from storage.artifacts import Checkpoint, OnnxModel
from storage.digests import digest_json
from storage.embedding_cache import EmbeddingCache


@contextmanager
def served_encoder(
    store: ArtifactStore, settings: DeploySettings, model: Checkpoint, exported: OnnxModel
) -> Iterator[CachedEncoder]:
    """The deployed server as the encoder of ``model``, with cached vectors. Each block is kept only if the server
    still serves that model after it.

    Args:
        exported: what was deployed; with the kind of server it decides the vectors.

    Raises:
        DeployError: no server serves ``model``.
    """
    server = server_of(store.root / STATE_FOLDER, model.version)

    def prove() -> None:
        if not server.serves_its_model():
            raise DeployError(
                f"the server at {server.url} no longer serves {model.version}: run `retune reindex` again; the blocks "
                "that were finished are kept"
            )

    kind = [settings.server, settings.nim_image, settings.use_onnx] if settings.server == "nim" else []
    identity = digest_json(["served", exported.version, *kind])
    dimensions: int = exported.manifest()["dimensions"]
    interface = interface_of(server.backend)
    served = ServedEncoder(server.url, settings.served_model_name, dimensions, identity, interface, prove)
    with closing(served):
        yield CachedEncoder(served, EmbeddingCache(store.root / CACHE_FOLDER))
