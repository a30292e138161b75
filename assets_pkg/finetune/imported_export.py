"""An exported ONNX model that a user brings, as a checkpoint of the graph: Retune's, or the recipe's exporter's.

The folder of such a checkpoint is a served-model folder (``retune_model.json`` beside ``model.onnx``); it is embedded
with by ONNX Runtime, and cannot be trained.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, cast

from assets_pkg.config.base import ModelSettings
from assets_pkg.finetune.errors import BaseModelError
from assets_pkg.nim.manifest import (
    DIMENSIONS_INPUT,
    MANIFEST_FILE,
    MODEL_FILE,
    OUTPUT_NAME,
    TOKENIZER_FILE,
    FolderError,
    ServedModelManifest,
    read_manifest,
)
from resources.encoders.onnx import OnnxEncoder
from storage.digests import digest_file
from storage.errors import RetuneError
from storage.files import write_json

ENGINES = ("*.plan", "*.engine")
WEIGHTS = ("modules.json", "*.safetensors", "pytorch_model*.bin")
TOKENIZER_PLACES = (".", "tokenizer", "..", "../tokenizer")
"""Where the tokenizer of an export is, from the graph's folder."""

ALL_DIMENSIONS = 2**16
"""More than any model has."""


def exported_graph(source: Path) -> Path | None:
    """The graph of an exported folder, ``model.onnx`` in it or in its ``onnx/``; None where the folder holds weights.

    Raises:
        BaseModelError: it holds a TensorRT engine alone.
    """
    if any(weights for pattern in WEIGHTS for weights in source.glob(pattern)):
        return None
    for folder in (source, source / "onnx"):
        if (folder / MODEL_FILE).is_file():
            return folder / MODEL_FILE
    if any(engine for pattern in ENGINES for engine in source.glob(pattern)):
        raise BaseModelError(
            f"{source}: a TensorRT engine alone cannot be checked: give the folder of the ONNX model or checkpoint "
            "that it was built from; retune deploy use_onnx=false export_to_trt=true builds its engine anew"
        )
    return None


def exported_from(graph: Path) -> str | None:
    """The version of the checkpoint that Retune exported this graph from; None of a graph of another exporter."""
    try:
        return read_manifest(graph.parent).model_digest
    except FolderError:
        return None


def import_export(graph: Path, settings: ModelSettings, folder: Path) -> None:
    """Write ``model/consolidated/``, a served-model folder, and ``summary.json`` into ``folder``.

    What the export does not say of itself (``retune_model.json``) is as in the settings: prompts and length.

    Raises:
        BaseModelError: no tokenizer, no such output, or a graph that cannot be run.
    """
    target = folder / "model" / "consolidated"
    shutil.rmtree(folder / "model", ignore_errors=True)
    shutil.copytree(graph.parent, target)
    if not (target / TOKENIZER_FILE).is_file():
        shutil.copy2(_tokenizer_of(graph), target / TOKENIZER_FILE)
    try:
        if not (target / MANIFEST_FILE).is_file():
            _described(target / MODEL_FILE, settings).write(target)
        manifest = read_manifest(target)
        encoder = OnnxEncoder(target, manifest.model_digest)
        encoder.embed(["A text to see that the model works."], "passage")
        encoder.close()
    except (FolderError, RetuneError) as error:
        raise BaseModelError(f"{graph}: {error}") from error
    summary = {
        "source": str(graph),
        "dimension": manifest.dimensions,
        "max_length": manifest.max_length,
        "query_prompt": manifest.query_prefix,
        "passage_prompt": manifest.passage_prefix,
    }
    write_json(folder / "summary.json", summary, ensure_ascii=True)


def _tokenizer_of(graph: Path) -> Path:
    for place in TOKENIZER_PLACES:
        if (found := graph.parent / place / TOKENIZER_FILE).is_file():
            return found
    raise BaseModelError(f"{graph}: {TOKENIZER_FILE} is neither beside it nor in tokenizer/: copy it there")


def _described(graph: Path, settings: ModelSettings) -> ServedModelManifest:
    """The manifest of a graph that has none."""
    import onnx

    dimensions = _dimensions(graph)  # of a file that is no graph it says so
    model = cast(Any, onnx).load(str(graph), load_external_data=False)
    halves = any(each.data_type == onnx.TensorProto.FLOAT16 for each in model.graph.initializer)
    opset = max(each.version for each in model.opset_import if each.domain in ("", "ai.onnx"))
    digest = digest_file(graph)
    return ServedModelManifest(
        model_id=graph.parent.name,
        model_digest=digest,
        dimensions=dimensions,
        max_length=settings.passage_max_length,
        query_prefix=settings.query_prefix,
        passage_prefix=settings.passage_prefix,
        pooling="mean",  # in the graph, whatever it is
        dtype="fp16" if halves else "fp32",
        opset=opset,
    )


def _dimensions(graph: Path) -> int:
    import numpy as np
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(str(graph), providers=["CPUExecutionProvider"])
        names = {each.name for each in session.get_inputs()}
        one = np.ones((1, 2), dtype=np.int64)
        fed = {"input_ids": one, "attention_mask": one, DIMENSIONS_INPUT: np.array([ALL_DIMENSIONS])}
        (vectors,) = session.run([OUTPUT_NAME], {name: fed[name] for name in names if name in fed})
    except Exception as error:  # onnxruntime's errors have no base of their own
        raise BaseModelError(
            f"{graph}: cannot be run with input_ids and attention_mask for {OUTPUT_NAME}: {error}"
        ) from error
    return int(np.asarray(vectors).shape[-1])
