"""Export a sentence-transformers checkpoint as an ONNX model with pooling and normalisation inside.

The graph is traced with the TorchScript exporter. Against the `torch.export` one it is 5-8 times quicker,
needs no other package, accepts sequences of one token without a lower bound on the axis, and traces
encoders and decoders (causal or ``is_causal=False``) alike; both give the same speed once onnxruntime has
optimised the graph. Its known weakness, a branch on a shape frozen at the traced one, is what
`assets_pkg.export.parity` looks for, at shapes other than the traced one.
"""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Generator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast, get_args

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from assets_pkg.export.exportable import ExportError, admit_modules, query_matrix, require_fast_tokenizer
from assets_pkg.nim.manifest import (
    DIMENSIONS_INPUT,
    MODEL_FILE,
    OUTPUT_NAME,
    QUERY_MAP_FILE,
    ExportDtype,
    Pooling,
    QuantizedDtype,
    ServedModelManifest,
    file_digests,
)
from resources.machine.accelerator import Accelerator
from resources.machine.memory_estimate import export_need
from resources.models.shape import read_shape, token_positions

if TYPE_CHECKING:
    import torch
    from sentence_transformers import SentenceTransformer

log = logging.getLogger(__name__)

INPUT_NAMES = ("input_ids", "attention_mask")
TOKENIZER_FOLDER = "tokenizer"
"""Where the recipe's exporter puts the tokenizer."""

EXTERNAL_DATA_FILE = "model.onnx.data"
PROTOBUF_LIMIT_BYTES = 2**31 - 2**20
"""An ONNX file is one protobuf message, at most 2 GiB; the margin is for the graph itself."""


class OnnxExportSettings(BaseModel):
    """Settings of an export.

    A prefix or maximum length left as ``None`` is taken from the checkpoint: its own ``query`` and
    ``document``/``passage`` prompts, and its own ``max_seq_length``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    opset: Annotated[int, Field(ge=17, le=20)] = 20
    export_dtype: ExportDtype = "fp32"
    attn_implementation: Literal["eager", "sdpa"] = "eager"
    max_length: Annotated[int, Field(gt=0)] | None = None
    query_prefix: str | None = None
    passage_prefix: str | None = None
    matryoshka_dims: tuple[Annotated[int, Field(gt=0)], ...] = ()
    license: str | None = None
    layout: Literal["retune", "recipe"] = "retune"

    @property
    def inputs(self) -> tuple[str, ...]:
        return INPUT_NAMES if self.layout == "retune" else (*INPUT_NAMES, DIMENSIONS_INPUT)


def export_onnx(
    checkpoint: Path,
    folder: Path,
    *,
    model_id: str,
    model_digest: str,
    settings: OnnxExportSettings,
    trust_remote_code: bool = False,
) -> ServedModelManifest:
    """Write a served-model folder for a sentence-transformers checkpoint.

    ``folder`` is created, or must be empty. The model has inputs ``input_ids`` and ``attention_mask``
    (int64 [batch, sequence], both axes dynamic) and one output ``embeddings`` (float32 [batch, dimensions],
    rows of length 1). The same weights and settings give the same bytes.

    A model that embeds questions and passages in two ways (``finetune.adapter_side=query``) has the matrix on the
    vectors of questions in a file of its own, float32 [dimensions, dimensions]; the graph gives those of passages.

    In the recipe's layout it has a third input ``dimensions`` (int64 [batch]): values of a row beyond its number are 0,
    and the others have length 1 together; and the tokenizer is in ``tokenizer/`` too.

    Raises:
        ExportError: unsupported modules, pooling or tokenizer; a maximum length the model does not have.
        FileExistsError: ``folder`` is not empty.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty")
    model = load_checkpoint(checkpoint, settings.attn_implementation, trust_remote_code=trust_remote_code)
    manifest = manifest_of(model, model_id=model_id, model_digest=model_digest, settings=settings)
    _trace(model, folder / MODEL_FILE, settings)
    if (matrix := query_matrix(model)) is not None:
        np.save(folder / QUERY_MAP_FILE, matrix)
    if settings.export_dtype in get_args(QuantizedDtype):
        _quantize(folder, settings.export_dtype)
    _write_tokenizer(model, folder)
    if settings.layout == "recipe":
        model.tokenizer.save_pretrained(str(folder / TOKENIZER_FOLDER))
    _transformer(model).config.save_pretrained(folder)
    manifest = manifest.model_copy(update={"sha256": file_digests(folder)})
    manifest.write(folder)
    return manifest


def manifest_of(
    model: SentenceTransformer, *, model_id: str, model_digest: str, settings: OnnxExportSettings
) -> ServedModelManifest:
    """The manifest of a served folder of this checkpoint.

    Raises:
        ExportError: unsupported modules or pooling; a maximum length the model does not have.
    """
    dimensions = model.get_embedding_dimension()
    if dimensions is None:
        raise ExportError("the checkpoint does not say how many dimensions its embeddings have")
    if any(length > dimensions for length in settings.matryoshka_dims):
        raise ExportError(
            f"matryoshka_dims = {list(settings.matryoshka_dims)}: the model's vectors have {dimensions} dimensions"
        )
    return ServedModelManifest(
        model_id=model_id,
        model_digest=model_digest,
        dimensions=dimensions,
        matryoshka_dims=sorted(settings.matryoshka_dims),
        max_length=_max_length(model, settings.max_length),
        query_prefix=_prefix(model, settings.query_prefix, ("query",)),
        passage_prefix=_prefix(model, settings.passage_prefix, ("document", "passage")),
        pooling=_pooling_of(model),
        dtype=settings.export_dtype,
        batch_invariant=settings.export_dtype != "int8_dynamic",
        opset=settings.opset,
        license=settings.license,
    )


def admit_export(checkpoint: Path, host: Accelerator) -> None:
    """Check that the machine's memory is enough to export ``checkpoint``; nothing is loaded.

    Raises:
        NotEnoughMemoryError: it is not.
    """
    try:
        host.admit(export_need(read_shape(checkpoint)))
    except ValueError:
        return  # an unusual model: the export reports what is wrong


def _quantize(folder: Path, dtype: Any) -> None:
    from assets_pkg.export.quantize import quantize

    if (folder / EXTERNAL_DATA_FILE).exists():
        raise ExportError(f"export_dtype={dtype}: only for models below 2 GB; use fp16 for this one")
    quantize(folder / MODEL_FILE, dtype)


def load_checkpoint(
    checkpoint: Path, attn_implementation: str = "eager", *, trust_remote_code: bool = False
) -> SentenceTransformer:
    """Load a checkpoint on the CPU in float32, in evaluation mode, without network access."""
    import torch
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(
        str(checkpoint),
        device="cpu",
        local_files_only=True,
        trust_remote_code=trust_remote_code,
        model_kwargs={"attn_implementation": attn_implementation, "dtype": torch.float32},
    )
    model.eval()
    return model


def _transformer(model: SentenceTransformer) -> Any:
    """The transformers model inside; typed Any because sentence-transformers leaves it so."""
    return cast(Any, model[0]).auto_model


def _pooling_of(model: SentenceTransformer) -> Pooling:
    """The checkpoint's pooling, once its modules are known to be exportable."""
    from sentence_transformers.sentence_transformer.modules import Pooling as PoolingModule

    pooling = next((module for module in model if isinstance(module, PoolingModule)), None)
    return admit_modules([type(module).__name__ for module in model], pooling)


def _max_length(model: SentenceTransformer, wanted: int | None) -> int:
    positions = token_positions(_transformer(model).config, model.modules())
    own = model.max_seq_length
    known = [length for length in (own, positions) if length is not None]
    if not known:
        raise ExportError("the checkpoint states no maximum length; set max_length")
    if wanted is None:
        return min(known)
    if positions is not None and wanted > positions:
        raise ExportError(f"max_length {wanted} is more than the model's {positions} positions")
    return wanted


def _prefix(model: SentenceTransformer, wanted: str | None, prompt_names: tuple[str, ...]) -> str:
    if wanted is not None:
        return wanted
    prompts = (model.prompts.get(name) for name in prompt_names)
    return next((prompt for prompt in prompts if prompt), "")


def _write_tokenizer(model: SentenceTransformer, folder: Path) -> None:
    model.tokenizer.save_pretrained(str(folder))
    require_fast_tokenizer(folder)


def embedder(model: SentenceTransformer) -> torch.nn.Module:
    """The checkpoint as a module of two tensors: its own modules, then normalisation in float32. Of a model with a
    :func:`query_matrix` it gives the vectors of passages."""
    import torch
    from sentence_transformers.sentence_transformer.modules import Router

    modules = [module for module in model if not isinstance(module, Router)]

    class Embedder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pipeline = torch.nn.ModuleList(modules)

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            features: dict[str, Any] = {"input_ids": input_ids, "attention_mask": attention_mask}
            for module in self.pipeline:
                features = module(features)
            return torch.nn.functional.normalize(features["sentence_embedding"].float(), dim=-1)

    return Embedder().eval()


def _cut(module: torch.nn.Module) -> torch.nn.Module:
    """The module with a third input, the number of dimensions of each row."""
    import torch

    class Cut(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedder = module

        def forward(
            self, input_ids: torch.Tensor, attention_mask: torch.Tensor, dimensions: torch.Tensor
        ) -> torch.Tensor:
            vectors = self.embedder(input_ids, attention_mask)
            kept = torch.arange(vectors.shape[1], device=vectors.device)[None, :] < dimensions[:, None]
            # Multiplied by the mask: a mask of -inf makes rows of several lengths NaN.
            return torch.nn.functional.normalize(vectors * kept.to(vectors.dtype), dim=-1)

    return Cut().eval()


def _trace(model: SentenceTransformer, path: Path, settings: OnnxExportSettings) -> None:
    import torch

    _transformer(model).config.use_cache = False
    module = embedder(model)
    if settings.export_dtype == "fp16":
        module = module.half()
    if DIMENSIONS_INPUT in settings.inputs:
        module = _cut(module)
    # Two rows of unequal length: the mask must be traced as data, not folded away as all ones.
    input_ids = torch.ones((2, 7), dtype=torch.int64)
    attention_mask = torch.ones_like(input_ids)
    attention_mask[1, 5:] = 0
    axes = {name: {0: "batch", 1: "sequence"} for name in INPUT_NAMES}
    inputs = (input_ids, attention_mask)
    if DIMENSIONS_INPUT in settings.inputs:
        axes[DIMENSIONS_INPUT] = {0: "batch"}
        inputs = (*inputs, torch.tensor([3, 5]))
    # A graph above the protobuf limit is written with one file per weight, so it is traced in a folder of its own.
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".export-") as work, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = Path(work) / path.name
        with torch.no_grad(), _masks_without_vmap():
            torch.onnx.export(
                module,
                inputs,
                str(traced),
                input_names=list(settings.inputs),
                output_names=[OUTPUT_NAME],
                opset_version=settings.opset,
                dynamic_axes={**axes, OUTPUT_NAME: {0: "batch"}},
                dynamo=False,
            )
        _save(traced, path, model.get_embedding_dimension())


@contextmanager
def _masks_without_vmap() -> Generator[None]:
    """Build attention masks by broadcasting, as transformers does for most architectures.

    For those that add a mask function of their own (bidirectional Gemma 3) it maps the function over all positions,
    which the TorchScript exporter cannot trace. The functions work on tensors of positions alike; the parity check
    compares the result.
    """
    from transformers import masking_utils

    masks = cast(Any, masking_utils)
    mapped, indexing = masks._vmap_expansion_sdpa, masks.TransformGetItemToIndex

    def broadcast(mask_function: Any) -> Any:
        def over_all(*positions: torch.Tensor) -> torch.Tensor:
            mask = mask_function(*masks._non_vmap_expansion_sdpa(*positions))
            # Not len(), which the graph would keep as a constant.
            return mask.expand(*(each.shape[0] for each in positions))

        return over_all

    masks._vmap_expansion_sdpa, masks.TransformGetItemToIndex = broadcast, nullcontext
    try:
        yield
    finally:
        masks._vmap_expansion_sdpa, masks.TransformGetItemToIndex = mapped, indexing


def _save(traced: Path, path: Path, dimensions: int | None) -> None:
    """Save the traced graph as ``path``, with the size of its output axis and large weights in one file."""
    import onnx

    graph = onnx.load(str(traced))
    output_dims = graph.graph.output[0].type.tensor_type.shape.dim
    output_dims[1].ClearField("dim_param")
    output_dims[1].dim_value = dimensions or 0
    size = graph.ByteSize()
    if size < PROTOBUF_LIMIT_BYTES:
        onnx.save_model(graph, str(path))
        return
    log.info("%.1f GB of weights go to %s", size / 1e9, EXTERNAL_DATA_FILE)
    onnx.save_model(
        graph,
        str(path),
        save_as_external_data=True,
        all_tensors_to_one_file=True,
        location=EXTERNAL_DATA_FILE,
    )
