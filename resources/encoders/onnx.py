"""An encoder over an exported model folder (``retune_model.json``, ``model.onnx``, ``tokenizer.json``)."""

from __future__ import annotations

import gc
import json
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resources.encoders.base import Role
from resources.encoders.items import Input, as_items
from resources.encoders.loading import load_checked
from resources.models.entry import Modality, ModelEntry
from storage.digests import digest_json
from storage.progress import Progress, no_progress

if TYPE_CHECKING:
    from resources.encoders.base import Vectors

MODALITIES: tuple[Modality, ...] = ("text",)
BATCH_TOKENS = 2048


class OnnxEncoder:
    """Embeds with onnxruntime; pooling and normalisation are in the graph, prompts and length in the manifest."""

    def __init__(self, folder: Path, entry: ModelEntry, model_digest: str):
        self.folder = folder
        self.entry = entry
        self._digest = model_digest
        self._parts: tuple[Any, Any, dict[str, Any]] | None = None

    @property
    def modalities(self) -> tuple[Modality, ...]:
        return MODALITIES

    @property
    def dimensions(self) -> int:
        return int(self._load()[2]["dimensions"])

    def identity(self, role: Role) -> str:
        return digest_json([self._digest, role])

    def embed(self, items: Sequence[Input], role: Role, progress: Progress = no_progress) -> Vectors:
        """As `ItemEncoder.embed`, texts only."""
        import numpy as np

        given = as_items(items, MODALITIES, self.folder.name)
        session, tokenizer, manifest = self._load()
        prefix = manifest.get(f"{role}_prefix", "")
        encoded = tokenizer.encode_batch([prefix + (item.text or "") for item in given])
        lengths = [len(one.ids) for one in encoded]
        order = sorted(range(len(given)), key=lambda row: -lengths[row])
        vectors = np.empty((len(given), self.dimensions), dtype=np.float32)
        start = 0
        while start < len(order):
            rows = order[start : start + max(1, BATCH_TOKENS // lengths[order[start]])]
            vectors[rows] = _run(session, [encoded[row].ids for row in rows])
            start += len(rows)
            progress(start, len(given), "items")
        return vectors

    def close(self) -> None:
        self._parts = None
        gc.collect()

    def _load(self) -> tuple[Any, Any, dict[str, Any]]:
        if self._parts is None:
            self._parts = load_checked(self.folder, self._open)
        return self._parts

    def _open(self) -> tuple[Any, Any, dict[str, Any]]:
        from tokenizers import Tokenizer

        manifest: dict[str, Any] = json.loads((self.folder / "retune_model.json").read_text("utf-8"))
        tokenizer: Any = Tokenizer.from_file(str(self.folder / "tokenizer.json"))
        tokenizer.no_padding()
        tokenizer.enable_truncation(int(manifest["max_length"]))
        onnxruntime: Any = import_module("onnxruntime")
        options = onnxruntime.SessionOptions()
        options.enable_cpu_mem_arena = False
        return onnxruntime.InferenceSession(str(self.folder / "model.onnx"), options), tokenizer, manifest


def _run(session: Any, rows: Sequence[Sequence[int]]) -> Any:
    """Vectors of one padded batch: float32 [rows, d]."""
    import numpy as np

    longest = max(map(len, rows))
    ids = np.zeros((len(rows), longest), dtype=np.int64)
    mask = np.zeros_like(ids)
    for place, row in enumerate(rows):
        ids[place, : len(row)] = row
        mask[place, : len(row)] = 1
    feed = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
    wanted = {given.name for given in session.get_inputs()}
    return session.run(["embeddings"], {name: feed[name] for name in wanted})[0]
