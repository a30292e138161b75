"""A model with a matrix on the vectors of questions alone is exported and served: the checkpoint under
sentence-transformers is the oracle."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Router

from assets_pkg.deploy.server_state import DeployError, ServedModel
from assets_pkg.export.checkpoint_model import load_checkpoint_model
from assets_pkg.export.exportable import ExportError, check_exportable
from assets_pkg.export.onnx import OnnxExportSettings, export_onnx
from assets_pkg.export.parity import measure_parity
from assets_pkg.nim.engine import OnnxEncoder
from assets_pkg.nim.loading import load_export
from assets_pkg.nim.manifest import QUERY_MAP_FILE, FolderError
from tests.nim.inprocess import Local

pytestmark = pytest.mark.slow

TEXTS = ["the pump is checked", "glaze and firing of the kiln", "where is the cargo"]
DIMENSIONS = 32


def layer(weight: torch.Tensor) -> Dense:
    return Dense(*weight.T.shape, bias=False, activation_function=torch.nn.Identity(), init_weight=weight)


def save(model: Path, target: Path, query: torch.Tensor, document: torch.Tensor) -> Path:
    modules = [
        module
        for module in SentenceTransformer(str(model), device="cpu")
        if not isinstance(module, Normalize)
    ]
    router = Router.for_query_document([layer(query)], [layer(document)], default_route="document")
    SentenceTransformer(modules=[*modules, router, Normalize()], device="cpu").save_pretrained(str(target))
    return target


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    torch.manual_seed(0)
    matrix = torch.eye(DIMENSIONS) + torch.randn(DIMENSIONS, DIMENSIONS) / 10
    return save(tiny_model, tmp_path_factory.mktemp("two-ways") / "model", matrix, torch.eye(DIMENSIONS))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> Path:
    target = tmp_path_factory.mktemp("exported") / "model"
    export_onnx(checkpoint, target, model_id="tiny", model_digest="ab", settings=OnnxExportSettings())
    return target


@pytest.fixture(scope="module")
def expected(checkpoint: Path) -> dict[str, np.ndarray]:
    model = SentenceTransformer(str(checkpoint), device="cpu")
    vectors = {"query": model.encode_query(TEXTS), "passage": model.encode_document(TEXTS)}
    assert (np.abs(vectors["query"] - vectors["passage"]).max(1) > 0.05).all()
    return vectors


def test_the_export_is_faithful_in_both_roles(
    checkpoint: Path, folder: Path, texts: list[str], tmp_path: Path
) -> None:
    check_exportable(checkpoint)
    parity = measure_parity(checkpoint, folder, texts)
    assert parity.max_cosine_distance < 1e-10
    assert {shape.role for shape in parity.shapes} == {"query", "passage"}
    other = shutil.copytree(folder, tmp_path / "other")
    np.save(other / QUERY_MAP_FILE, np.eye(DIMENSIONS, dtype=np.float32))
    assert measure_parity(checkpoint, other, texts).max_cosine_distance > 1e-3


@pytest.mark.parametrize("served", ["export", "checkpoint"])
def test_the_server_maps_queries_and_no_passages(
    served: str, checkpoint: Path, folder: Path, expected: dict[str, np.ndarray]
) -> None:
    local = Local(
        folder if served == "export" else checkpoint,
        load=load_export if served == "export" else load_checkpoint_model,
    )
    try:
        for role, vectors in expected.items():
            answer = local.embed(input=TEXTS, model=local.service.parser.names[0], input_type=role).json()
            found = np.array([each["embedding"] for each in answer["data"]])
            np.testing.assert_allclose(found, vectors, atol=2e-6)
    finally:
        local.close()


def test_the_engine_without_a_server_maps_them_too(folder: Path, expected: dict[str, np.ndarray]) -> None:
    engine = OnnxEncoder(folder)
    np.testing.assert_allclose(engine.embed(TEXTS, "query"), expected["query"], atol=2e-6)
    np.testing.assert_allclose(engine.embed(TEXTS, "passage"), expected["passage"], atol=2e-6)
    assert engine.embed([], "query").shape == (0, DIMENSIONS)


def test_another_or_a_damaged_map_is_not_served(folder: Path, tmp_path: Path) -> None:
    damaged = shutil.copytree(folder, tmp_path / "damaged")
    np.save(damaged / QUERY_MAP_FILE, np.eye(DIMENSIONS, dtype=np.float32))
    with pytest.raises(FolderError, match=r"query_map\.npy is not the file that was exported"):
        load_export(damaged)
    np.save(damaged / QUERY_MAP_FILE, np.eye(3, dtype=np.float32))
    with pytest.raises(FolderError, match=r"query_map\.npy is float32 \[3, 3\]"):
        OnnxEncoder(damaged)
    (damaged / QUERY_MAP_FILE).write_bytes(b"not an array")
    with pytest.raises(FolderError, match=r"query_map\.npy cannot be read"):
        OnnxEncoder(damaged)
    (damaged / QUERY_MAP_FILE).unlink()
    with pytest.raises(FolderError, match=r"query_map\.npy is not the file that was exported"):
        load_export(damaged)


def test_models_that_differ_in_another_way_are_refused(tiny_model: Path, tmp_path: Path) -> None:
    unit = torch.eye(DIMENSIONS)
    for number, (query, document) in enumerate([(unit, 2 * unit), (unit[:8].clone(), unit[:8].clone())]):
        other = save(tiny_model, tmp_path / f"{number}", query, document)
        with pytest.raises(ExportError, match="Router module can be exported if"):
            check_exportable(other)
        with pytest.raises(ExportError, match="Router module can be exported if"):
            export_onnx(
                other,
                tmp_path / f"onnx{number}",
                model_id="m",
                model_digest="ab",
                settings=OnnxExportSettings(),
            )


def test_servers_that_know_no_map_are_refused(checkpoint: Path, folder: Path, tiny_model: Path) -> None:
    with pytest.raises(DeployError, match=r"adapter_side=query.*vLLM does not apply"):
        ServedModel(folder, checkpoint, "ab").refuse_query_map("vLLM")
    ServedModel(tiny_model, tiny_model, "ab").refuse_query_map("vLLM")
