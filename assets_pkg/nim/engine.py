"""Embed texts in this process, from a served-model folder and without a server."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from assets_pkg.nim.batching import DEFAULT_BATCH_TOKENS, plan_batches
from assets_pkg.nim.manifest import ServedModelManifest, read_manifest
from assets_pkg.nim.model import Model, OnnxModel, Vectors, usable_cpus
from assets_pkg.nim.query_map import QueryMap, read_query_map
from assets_pkg.nim.tokens import Role, TextTokenizer


class OnnxEncoder:
    """A served-model folder as a function from texts to unit vectors.

    Args:
        folder: a folder written by `assets_pkg.export.onnx.export_onnx`.
        threads: how many batches run in parallel; by default one for each core that this process may use.

    Raises:
        FolderError: the folder cannot be served; the message names the file at fault.
    """

    def __init__(self, folder: Path, threads: int | None = None) -> None:
        manifest = read_manifest(folder)
        query_map = read_query_map(folder, manifest.dimensions)
        self._start(
            manifest, TextTokenizer(folder, manifest), OnnxModel(folder, manifest), query_map, threads
        )

    @classmethod
    def of(cls, manifest: ServedModelManifest, tokenizer: TextTokenizer, model: Model) -> OnnxEncoder:
        """The same of any model, whatever its folder looks like."""
        made = cls.__new__(cls)
        made._start(manifest, tokenizer, model, None, None)
        return made

    def _start(
        self,
        manifest: ServedModelManifest,
        tokenizer: TextTokenizer,
        model: Model,
        query_map: QueryMap | None,
        threads: int | None,
    ) -> None:
        self.manifest: ServedModelManifest = manifest
        self._tokenizer = tokenizer
        self._model = model
        self._query_map = query_map
        self._threads = threads or usable_cpus()

    def embed(
        self,
        texts: Sequence[str],
        role: Role,
        *,
        batch_tokens: int = DEFAULT_BATCH_TOKENS,
    ) -> Vectors:
        """Embed texts with the role's prefix; a text longer than the model's maximum is truncated at its end.

        A text in which the tokenizer reads nothing gets the vector of the prefix and the special tokens.

        Returns float32 [len(texts), dimensions], rows of length 1 in the order of ``texts``.

        Raises:
            TextError: a text gives no token at all; ``index`` is its index.
            BadOutputError: the model's output is not finite.
        """
        rows = self._tokenizer.encode(texts, role)
        vectors = np.empty((len(rows), self.manifest.dimensions), dtype=np.float32)

        def run(batch: list[int]) -> None:
            vectors[batch] = self._model.embed([rows[index] for index in batch])

        pool = ThreadPoolExecutor(self._threads, thread_name_prefix="embed")
        try:
            batches = plan_batches([len(row) for row in rows], batch_tokens)
            for done in [pool.submit(run, batch) for batch in batches]:
                done.result()
        finally:  # after a failure the remaining batches are not needed
            pool.shutdown(cancel_futures=True)
        mapped = self._query_map if role == "query" and texts else None
        return vectors if mapped is None else mapped.apply(vectors)
