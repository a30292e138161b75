"""From a name in the registry to an encoder: of local weights or a server, or the reason why there is neither."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from resources.encoders.cached_items import CachedItems
from resources.encoders.items import ItemEncoder
from resources.machine.accelerator import Accelerator, find_accelerator
from resources.models.entry import Adapter, ModelEntry
from resources.models.files import EXPORTED_FILE, check_files, digest_model
from resources.models.locations import ModelLocation, find_model
from resources.models.registry import Registry
from storage.artifact_store import ArtifactStore
from storage.embedding_cache import EmbeddingCache
from storage.errors import RetuneError
from storage.paths import EMBEDDING_CACHE


class UnavailableError(RetuneError, RuntimeError):
    """A registered model cannot be used here now; the message is the reason."""


@dataclass(frozen=True)
class Availability:
    """Whether a model can be used, from where, and otherwise why not."""

    name: str
    entry: ModelEntry
    location: ModelLocation
    problem: str | None

    @property
    def usable(self) -> bool:
        return self.problem is None


def look_up(registry: Registry, name: str, root: Path | None = None) -> Availability:
    """Find a model by short name, hub id or alias, and check whether it can be used: its files are complete, or its
    server answers. Nothing is loaded.

    Raises:
        RegistryError: there is no such model in the registry.
    """
    from resources.encoders.http import server_problem

    short = registry.name_of(name)
    entry = registry.get(name)
    location = find_model(short, entry, root)
    problem: str | None = None
    if location.kind == "missing":
        problem = location.reason
    elif location.kind == "server":
        problem = server_problem(short, entry)
    elif location.folder is not None:
        problems = check_files(short, entry, location.folder)
        problem = problems[0].text if problems else None
    return Availability(short, entry, location, problem)


def open_encoder(
    found: Availability,
    accelerator: Accelerator | None = None,
    *,
    allow_egress: bool = False,
    approved_endpoints: Sequence[str] = (),
) -> ItemEncoder:
    """The encoder of a model that was looked up. Its weights are loaded at first use; ``close`` frees them.

    Raises:
        UnavailableError: the model cannot be used; the message is the reason.
    """
    if found.problem is not None:
        raise UnavailableError(f"{found.name}: {found.problem}")
    if found.location.folder is None:
        from resources.encoders.http import HttpEncoder

        return HttpEncoder(
            found.name, found.entry, allow_egress=allow_egress, approved_endpoints=approved_endpoints
        )
    make = LOCAL[found.entry.adapter]
    return make(
        found.location.folder,
        found.entry,
        digest_model(found.location.folder),
        accelerator or find_accelerator(),
    )


def _sentence_transformer(
    folder: Path, entry: ModelEntry, digest: str, accelerator: Accelerator
) -> ItemEncoder:
    from resources.encoders.registered_text import RegisteredTextEncoder

    return RegisteredTextEncoder(folder, entry, digest, accelerator)


def _dual_tower(folder: Path, entry: ModelEntry, digest: str, accelerator: Accelerator) -> ItemEncoder:
    from resources.encoders.dual_tower import DualTowerEncoder

    return DualTowerEncoder(folder, entry, digest, accelerator)


def _qwen3_vl(folder: Path, entry: ModelEntry, digest: str, accelerator: Accelerator) -> ItemEncoder:
    from resources.encoders.qwen3_vl import Qwen3VLEncoder

    return Qwen3VLEncoder(folder, entry, digest, accelerator)


def _onnx(folder: Path, entry: ModelEntry, digest: str, accelerator: Accelerator) -> ItemEncoder:
    from resources.encoders.hub_onnx import HubOnnxEncoder
    from resources.encoders.onnx import OnnxEncoder

    exported = (folder / EXPORTED_FILE).is_file()
    return OnnxEncoder(folder, digest) if exported else HubOnnxEncoder(folder, entry, digest)


LOCAL: dict[Adapter, Callable[[Path, ModelEntry, str, Accelerator], ItemEncoder]] = {
    "sentence_transformer": _sentence_transformer,
    "dual_tower": _dual_tower,
    "qwen3_vl": _qwen3_vl,
    "onnx": _onnx,
}


def opener(
    found: Availability,
    store: ArtifactStore,
    accelerator: Callable[[], Accelerator],
    *,
    allow_egress: bool,
    approved_endpoints: Sequence[str],
) -> Callable[[], ItemEncoder]:
    """Opens the model, with cached vectors, when it is first needed."""

    def open_it() -> ItemEncoder:
        encoder = open_encoder(
            found,
            accelerator(),
            allow_egress=allow_egress,
            approved_endpoints=approved_endpoints,
        )
        return CachedItems(encoder, EmbeddingCache(store.root / EMBEDDING_CACHE))

    return open_it
