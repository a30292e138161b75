"""The manifest of a served-model folder, and the files that the folder must contain."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

MANIFEST_FILE = "retune_model.json"
MODEL_FILE = "model.onnx"
TOKENIZER_FILE = "tokenizer.json"
QUERY_MAP_FILE = "query_map.npy"
"""A matrix on the vectors of queries; only in models that embed queries and passages in two ways."""

OUTPUT_NAME = "embeddings"
DIMENSIONS_INPUT = "dimensions"
"""An input of graphs in the layout of NVIDIA's exporter: how many dimensions each row is to have."""


Pooling = Literal["mean", "cls", "lasttoken"]
QuantizedDtype = Literal["int8_weights", "int8_dynamic"]
ExportDtype = Literal["fp32", "fp16"] | QuantizedDtype
PositiveInt = Annotated[int, Field(gt=0)]


class FolderError(Exception):
    """A served-model folder is unusable; the message is one line and names the file at fault."""


class ServedModelManifest(BaseModel):
    """Identity and calling convention of one exported model."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, protected_namespaces=())

    schema_version: Literal[1] = 1
    model_id: Annotated[str, Field(min_length=1)]
    model_digest: Annotated[str, Field(pattern=r"^[0-9a-f]+$")]
    dimensions: PositiveInt
    matryoshka_dims: list[PositiveInt] = []
    max_length: PositiveInt
    query_prefix: str = ""
    passage_prefix: str = ""
    pooling: Pooling
    dtype: ExportDtype
    batch_invariant: bool = True
    """Whether a text gets the same vector whatever texts are in its batch."""
    opset: PositiveInt | None = None
    """None for a checkpoint, which has no graph."""
    license: str | None = None
    sha256: dict[str, Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]] = {}
    """Of the graph with its weights, and of the tokenizer, by file name; empty in exports of earlier versions."""

    @model_validator(mode="after")
    def _dims_fit(self) -> Self:
        too_large = [dim for dim in self.matryoshka_dims if dim > self.dimensions]
        if too_large:
            raise ValueError(f"matryoshka_dims {too_large} exceed dimensions {self.dimensions}")
        return self

    def prefix(self, role: Literal["query", "passage"]) -> str:
        """The text put before every input of this role, e.g. ``"query: "``; may be empty."""
        return self.query_prefix if role == "query" else self.passage_prefix

    def write(self, folder: Path) -> None:
        (folder / MANIFEST_FILE).write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")


def file_digests(folder: Path) -> dict[str, str]:
    """The sha256 of each file that decides the vectors: the graph, weights beside it, the query map, the tokenizer."""
    names = [
        path.name
        for path in folder.iterdir()
        if path.is_file() and (path.name.startswith(MODEL_FILE) or path.name == QUERY_MAP_FILE)
    ]
    return {name: _sha256(folder / name) for name in (*sorted(names), TOKENIZER_FILE)}


def check_files(folder: Path, manifest: ServedModelManifest) -> None:
    """Compare the files of a folder with the digests of its manifest, where it has any.

    Raises:
        FolderError: a file is another one, is missing or is not listed.
    """
    if not manifest.sha256:
        return
    found = file_digests(folder)
    for name in sorted({*found, *manifest.sha256}):
        if found.get(name) != manifest.sha256.get(name):
            raise FolderError(
                f"{folder / name} is not the file that was exported: its sha256 is not the one in {MANIFEST_FILE}; "
                "export the model again"
            )


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_manifest(folder: Path) -> ServedModelManifest:
    """Read and check a folder's manifest, and that the files a server needs are there.

    Raises:
        FolderError: the folder, or a file in it, is missing or malformed.
    """
    if not folder.is_dir():
        raise FolderError(f"{folder} is not a folder")
    for name in (MANIFEST_FILE, MODEL_FILE, TOKENIZER_FILE):
        if not (folder / name).is_file():
            raise FolderError(f"{folder / name} is missing")
    path = folder / MANIFEST_FILE
    try:
        return ServedModelManifest.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        key = ".".join(str(part) for part in first["loc"]) or "file"
        raise FolderError(f"{path} is not a valid manifest: {key}: {first['msg']}") from error
