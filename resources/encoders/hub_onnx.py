"""A model folder with an ONNX graph in the hub's usual layout (``onnx/model.onnx``) as an encoder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resources.encoders.base import Role
from resources.encoders.onnx import OnnxEncoder
from resources.encoders.sentence_transformer import EncoderError
from resources.models.entry import ModelEntry
from resources.models.files import graph_file
from resources.models.naming import NamedModel, own_settings
from storage.digests import digest_json

if TYPE_CHECKING:
    from assets_pkg.nim.engine import OnnxEncoder as Engine
    from assets_pkg.nim.manifest import Pooling

DEFAULT_TOKENS = 512
SENTENCE_OUTPUT = "sentence_embedding"
STATE_OUTPUTS = ("last_hidden_state", "token_embeddings")
POOLINGS: dict[str, Pooling] = {"mean": "mean", "cls": "cls", "last": "lasttoken", "lasttoken": "lasttoken"}
FLAGS = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_lasttoken": "lasttoken",
}


class HubOnnxEncoder(OnnxEncoder):
    """Embeds with a graph that gives token states (or ``sentence_embedding``), as `optimum` exports it.

    Pooling, prompts and length are the registry's, else the folder's own sentence-transformers configuration.

    Args:
        folder: with ``onnx/model.onnx`` or ``model.onnx``, ``tokenizer.json`` and ``config.json``.
    """

    def __init__(self, folder: Path, entry: ModelEntry, model_digest: str):
        super().__init__(folder, model_digest)
        self.entry = entry
        self._own = own_settings(NamedModel(folder.name, folder, entry=entry))

    def identity(self, role: Role) -> str:
        prompt = self._own.query if role == "query" else self._own.passage
        return digest_json([self._digest, prompt, self._own.max_length, self._pooling()])

    def _make(self) -> Engine:
        from assets_pkg.nim.engine import OnnxEncoder as Engine
        from assets_pkg.nim.manifest import ServedModelManifest
        from assets_pkg.nim.tokens import TextTokenizer
        from resources.encoders.hub_graph import HubGraph

        path = graph_file(self.folder)
        if path is None:
            raise EncoderError(f"{self.folder}: no ONNX graph in it")
        pooling = self._pooling()
        graph = HubGraph(path, pooling)
        if graph.pools and self._has_dense():
            raise EncoderError(
                f"{path}: gives token states, and the model projects them after pooling (Dense), which is not in the "
                "graph: use its weights (adapter sentence_transformer)"
            )
        manifest = ServedModelManifest(
            model_id=self.folder.name,
            model_digest=self._digest,
            dimensions=graph.dimensions,
            max_length=self._own.max_length or DEFAULT_TOKENS,
            query_prefix=self._own.query or "",
            passage_prefix=self._own.passage or "",
            pooling=pooling,
            dtype="fp32",
        )
        return Engine.of(manifest, TextTokenizer(self.folder, manifest), graph)

    def _pooling(self) -> Pooling:
        if self.entry.pooling in POOLINGS:
            return POOLINGS[self.entry.pooling]
        own = folder_pooling(self.folder)
        if own is None:
            raise EncoderError(
                f"{self.folder}: the registry gives no pooling, and 1_Pooling/config.json has none of "
                f"{', '.join(sorted(set(POOLINGS)))}: add `pooling:` to its entry in models.yaml"
            )
        return own

    def _has_dense(self) -> bool:
        modules = _read(self.folder / "modules.json")
        return any(str(module.get("type", "")).endswith(".Dense") for module in modules)


def folder_pooling(folder: Path) -> Pooling | None:
    """The pooling that a folder's sentence-transformers configuration names; None where there is none, or another."""
    modules = _read(folder / "modules.json") or [{"type": ".Pooling", "path": "1_Pooling"}]
    path = next((each["path"] for each in modules if str(each["type"]).endswith(".Pooling")), "")
    config: Any = _read(folder / path / "config.json") if path else {}
    flag = next((FLAGS[flag] for flag in FLAGS if config.get(flag)), "")
    return POOLINGS.get(str(config.get("pooling_mode", flag)))


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
