"""The parity measure sees the faults it is there for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from assets_pkg.export.onnx import OnnxExportSettings, export_onnx
from assets_pkg.export.parity import cosine_distances, measure_parity, neighbour_overlap
from assets_pkg.nim.manifest import read_manifest

pytestmark = pytest.mark.slow

MakeLlama = Callable[..., Path]


@pytest.fixture(scope="module")
def checkpoint(llama: MakeLlama) -> Path:
    return llama(is_causal=False, query="query: ", document="passage: ")


@pytest.fixture
def folder(checkpoint: Path, tmp_path: Path) -> Path:
    settings = OnnxExportSettings()
    export_onnx(checkpoint, tmp_path / "model", model_id="tiny", model_digest="ab", settings=settings)
    return tmp_path / "model"


def test_faithful_export(checkpoint: Path, folder: Path, texts: list[str]) -> None:
    parity = measure_parity(checkpoint, folder, texts)
    assert parity.max_cosine_distance < 1e-10
    assert parity.top10_overlap == 1
    assert {shape.role for shape in parity.shapes} == {"query", "passage"}
    assert {shape.rows for shape in parity.shapes} >= {1, 3, 6}
    lengths = [shape.tokens for shape in parity.shapes]
    assert min(lengths) < 30
    assert max(lengths) == 128


def test_other_weights(folder: Path, llama: MakeLlama, texts: list[str]) -> None:
    other = llama(is_causal=True, query="query: ", document="passage: ")
    assert measure_parity(other, folder, texts).max_cosine_distance > 1e-3


def test_other_tokenizer(checkpoint: Path, folder: Path, texts: list[str]) -> None:
    path = folder / "tokenizer.json"
    path.write_text(path.read_text().replace('"add_prefix_space":false', '"add_prefix_space":true'))
    path.write_text(path.read_text().replace('"add_prefix_space": false', '"add_prefix_space": true'))
    assert measure_parity(checkpoint, folder, texts).max_cosine_distance > 1e-4


def test_graph_fixed_at_the_traced_mask(checkpoint: Path, folder: Path, texts: list[str]) -> None:
    """A graph that ignores its mask is right for every batch without padding."""
    import onnx

    path = str(folder / "model.onnx")
    model = onnx.load(path)
    shape = onnx.helper.make_node("Shape", ["input_ids"], ["ids_shape"])
    ones = onnx.helper.make_node(
        "ConstantOfShape",
        ["ids_shape"],
        ["ones"],
        value=onnx.helper.make_tensor("one", onnx.TensorProto.INT64, [1], [1]),
    )
    for node in model.graph.node:
        for position, name in enumerate(node.input):
            if name == "attention_mask":
                node.input[position] = "ones"
    model.graph.node.insert(0, ones)
    model.graph.node.insert(0, shape)
    onnx.save_model(model, path)
    parity = measure_parity(checkpoint, folder, texts)
    alone = [shape.max_cosine_distance for shape in parity.shapes if shape.rows == 1]
    assert max(alone) < 1e-10
    assert parity.max_cosine_distance > 1e-3


def test_one_text_is_too_few(checkpoint: Path, folder: Path) -> None:
    with pytest.raises(ValueError, match="at least two different texts"):
        measure_parity(checkpoint, folder, ["one", "one"])


def test_cosine_distance_keeps_its_digits() -> None:
    """An angle of 1e-4 has cosine distance 5e-9, which float32's 1 - cosine cannot show."""
    left = np.array([[1, 0]], dtype=np.float32)
    right = np.array([[np.cos(1e-4), np.sin(1e-4)]], dtype=np.float32)
    assert cosine_distances(left, right)[0] == pytest.approx(5e-9, rel=1e-3)


def test_overlap_counts_shared_neighbours() -> None:
    angles = np.arange(12) * 0.1
    left = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    assert neighbour_overlap(left, left, 3) == 1
    moved = left.copy()
    moved[0] = -moved[0]
    assert neighbour_overlap(left, moved, 3) < 1


def test_manifest_prefix_is_part_of_what_is_compared(
    checkpoint: Path, folder: Path, texts: list[str]
) -> None:
    """Both sides read the prefix from the manifest, so a changed one still has to agree."""
    read_manifest(folder).model_copy(update={"query_prefix": "find: "}).write(folder)
    assert measure_parity(checkpoint, folder, texts[:4]).max_cosine_distance < 1e-10
