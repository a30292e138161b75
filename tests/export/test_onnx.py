"""The exported folder gives the checkpoint's embeddings, the same bytes every time, and serves alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import pytest

from assets_pkg.export import onnx as export_module
from assets_pkg.export.exportable import ExportError
from assets_pkg.export.onnx import OnnxExportSettings, export_onnx
from assets_pkg.export.parity import measure_parity
from assets_pkg.nim.engine import OnnxEncoder
from assets_pkg.nim.manifest import ServedModelManifest, read_manifest
from tests.export.checkpoints import make_bidirectional_gemma

pytestmark = pytest.mark.slow

DIGEST = "0f" * 32
MakeLlama = Callable[..., Path]


def export(checkpoint: Path, folder: Path, settings: OnnxExportSettings | None = None) -> ServedModelManifest:
    settings = settings or OnnxExportSettings()
    return export_onnx(checkpoint, folder, model_id="test/model", model_digest=DIGEST, settings=settings)


@pytest.fixture(scope="module")
def exported(minilm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MiniLM, with the default settings."""
    folder = tmp_path_factory.mktemp("exported") / "model"
    export(minilm, folder)
    return folder


def test_minilm_matches_sentence_transformers(minilm: Path, exported: Path, texts: list[str]) -> None:
    from sentence_transformers import SentenceTransformer

    manifest = read_manifest(exported)
    expected = SentenceTransformer(str(minilm), device="cpu").encode(texts, normalize_embeddings=True)
    np.testing.assert_allclose(OnnxEncoder(exported).embed(texts, "passage"), expected, atol=2e-6)
    assert (manifest.dimensions, manifest.max_length, manifest.pooling) == (384, 256, "mean")


@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("pooling", ["mean", "cls", "lasttoken"])
def test_decoders_match_at_every_shape(
    llama: MakeLlama, tmp_path: Path, texts: list[str], is_causal: bool, pooling: str
) -> None:
    checkpoint = llama(is_causal=is_causal, pooling=pooling)
    assert export(checkpoint, tmp_path / "model").pooling == pooling
    assert measure_parity(checkpoint, tmp_path / "model", texts).max_cosine_distance < 1e-10


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_bidirectional_gemma_matches_at_every_shape(
    tmp_path: Path, texts: list[str], attention: Literal["eager", "sdpa"]
) -> None:
    checkpoint = make_bidirectional_gemma(tmp_path / "gemma", texts)
    export(checkpoint, tmp_path / "model", OnnxExportSettings(attn_implementation=attention))
    assert measure_parity(checkpoint, tmp_path / "model", texts).max_cosine_distance < 1e-10


def test_attention_direction_survives_the_export(llama: MakeLlama, tmp_path: Path) -> None:
    """With the first token pooled, only a model that looks ahead can tell two texts apart."""
    distances: list[float] = []
    for is_causal in (True, False):
        folder = tmp_path / str(is_causal)
        export(llama(is_causal=is_causal, pooling="cls"), folder)
        first, second = OnnxEncoder(folder).embed(["the same start", "the same end"], "passage")
        distances.append(float(np.abs(first - second).max()))
    assert distances[0] == 0
    assert distances[1] > 1e-3


def test_half_precision(minilm: Path, exported: Path, tmp_path: Path, texts: list[str]) -> None:
    manifest = export(minilm, tmp_path / "half", OnnxExportSettings(export_dtype="fp16"))
    sizes = [(folder / "model.onnx").stat().st_size for folder in (exported, tmp_path / "half")]
    assert sizes[1] < 0.52 * sizes[0]
    assert manifest.dtype == "fp16"
    assert measure_parity(minilm, tmp_path / "half", texts[:16]).max_cosine_distance < 1e-5


def test_same_weights_give_the_same_bytes(minilm: Path, exported: Path, tmp_path: Path) -> None:
    export(minilm, tmp_path / "second")
    first, second = (
        {path.name: path.read_bytes() for path in folder.iterdir()}
        for folder in (exported, tmp_path / "second")
    )
    assert first == second
    assert set(first) >= {"model.onnx", "tokenizer.json", "tokenizer_config.json", "config.json"}


def test_graph_has_the_contract_s_inputs_and_output(llama: MakeLlama, tmp_path: Path) -> None:
    export(llama(is_causal=False), tmp_path / "model", OnnxExportSettings(opset=18))
    model = onnx.load(str(tmp_path / "model" / "model.onnx"))
    onnx.checker.check_model(model)
    shapes = {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    assert shapes == {
        "input_ids": ["batch", "sequence"],
        "attention_mask": ["batch", "sequence"],
        "embeddings": ["batch", 32],
    }
    assert model.opset_import[0].version == 18
    assert model.graph.output[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT


def test_large_weights_go_beside_the_graph(
    minilm: Path, tmp_path: Path, texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export_module, "PROTOBUF_LIMIT_BYTES", 2**20)
    export(minilm, tmp_path / "model")
    weights = tmp_path / "model" / "model.onnx.data"
    assert weights.stat().st_size > 80e6 > (tmp_path / "model" / "model.onnx").stat().st_size * 50
    assert measure_parity(minilm, tmp_path / "model", texts[:8]).max_cosine_distance < 1e-10


def test_prefixes_come_from_the_checkpoint_unless_given(llama: MakeLlama, tmp_path: Path) -> None:
    checkpoint = llama(is_causal=False, query="query: ", document="passage: ")
    own = export(checkpoint, tmp_path / "own")
    assert (own.query_prefix, own.passage_prefix) == ("query: ", "passage: ")
    manifest = export(
        checkpoint, tmp_path / "given", OnnxExportSettings(query_prefix="", passage_prefix="text: ")
    )
    assert (manifest.query_prefix, manifest.passage_prefix) == ("", "text: ")
    assert read_manifest(tmp_path / "given") == manifest


def test_settings_are_in_the_manifest(tiny_model: Path, tmp_path: Path) -> None:
    settings = OnnxExportSettings(max_length=64, matryoshka_dims=(16, 8), license="apache-2.0")
    manifest = export(tiny_model, tmp_path / "model", settings)
    assert set(manifest.sha256) == {"model.onnx", "tokenizer.json"}
    assert manifest.model_copy(update={"sha256": {}}) == ServedModelManifest(
        model_id="test/model",
        model_digest=DIGEST,
        dimensions=32,
        matryoshka_dims=[8, 16],
        max_length=64,
        pooling="mean",
        dtype="fp32",
        opset=20,
        license="apache-2.0",
    )


def test_more_tokens_than_positions_is_refused(minilm: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="max_length 513 is more than the model's 512 positions"):
        export(minilm, tmp_path / "model", OnnxExportSettings(max_length=513))


def test_unknown_pooling_is_refused(llama: MakeLlama, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="pooling 'max' cannot be exported"):
        export(llama(is_causal=False, pooling="max"), tmp_path / "model")


def test_a_folder_in_use_is_left_alone(minilm: Path, tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("mine")
    with pytest.raises(FileExistsError, match="is not empty"):
        export(minilm, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_the_recipes_layout_has_its_inputs_and_tokenizer_and_is_served_too(
    minilm: Path, exported: Path, tmp_path: Path, texts: list[str]
) -> None:
    import onnxruntime

    manifest = export(
        minilm, tmp_path / "model", OnnxExportSettings(layout="recipe", matryoshka_dims=(64, 128))
    )
    assert manifest.matryoshka_dims == [64, 128]
    assert (tmp_path / "model/tokenizer/tokenizer.json").is_file()
    session = onnxruntime.InferenceSession(str(tmp_path / "model/model.onnx"))
    assert [node.name for node in session.get_inputs()] == ["input_ids", "attention_mask", "dimensions"]
    whole = OnnxEncoder(tmp_path / "model").embed(texts[:8], "passage")
    np.testing.assert_allclose(whole, OnnxEncoder(exported).embed(texts[:8], "passage"), atol=1e-6)
    ids = np.array([[101, 2129, 2003, 102], [101, 1996, 9004, 102]])
    feed = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    (full,) = session.run(None, {**feed, "dimensions": np.array([384, 384])})
    (cut,) = session.run(None, {**feed, "dimensions": np.array([64, 384])})
    np.testing.assert_allclose(cut[0, :64], full[0, :64] / np.linalg.norm(full[0, :64]), atol=1e-6)
    assert not cut[0, 64:].any()
    np.testing.assert_allclose(cut[1], full[1], atol=1e-6)
    with pytest.raises(ExportError, match="the model's vectors have 384 dimensions"):
        export(minilm, tmp_path / "other", OnnxExportSettings(matryoshka_dims=(512,)))
