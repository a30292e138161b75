"""An ONNX model of another exporter becomes a checkpoint, and gives the vectors of the model that it was made of."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from assets_pkg.config.profile_files import load_profile
from assets_pkg.export.onnx import OnnxExportSettings, export_onnx
from assets_pkg.finetune.errors import BaseModelError
from assets_pkg.finetune.imported_export import exported_from, exported_graph, import_export
from resources.encoders.encoder_config import EncoderConfig
from resources.encoders.recipe import EncoderRecipe
from tests.conftest import made_once

SETTINGS = load_profile("laptop", ["query_prefix=query:"]).model


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """A folder as NVIDIA's exporter leaves it: no manifest, the tokenizer in ``tokenizer/``."""

    def make(folder: Path) -> None:
        settings = OnnxExportSettings(layout="recipe")
        export_onnx(tiny_model, folder / "onnx", model_id="m", model_digest="ab", settings=settings)
        for name in ("retune_model.json", "tokenizer.json"):
            (folder / "onnx" / name).unlink()

    return made_once(tmp_path_factory, "recipe-export", make)


@pytest.mark.slow
def test_it_embeds_as_the_model_that_it_was_exported_from(
    exported: Path, tiny_model: Path, tmp_path: Path
) -> None:
    from sentence_transformers import SentenceTransformer

    graph = exported_graph(exported)
    assert graph == exported / "onnx" / "model.onnx"
    assert exported_from(graph) is None
    import_export(graph, SETTINGS, tmp_path)
    made = tmp_path / "model" / "consolidated"
    manifest = json.loads((made / "retune_model.json").read_text())
    assert (manifest["dimensions"], manifest["dtype"], manifest["query_prefix"]) == (32, "fp32", "query:")
    config = EncoderConfig("", "", 64, 64, "eager")
    texts = ["the valve of the pump", "an apple"]
    vectors = EncoderRecipe(str(made), "digest", config, device="cpu").open().embed(texts, "passage")
    expected = SentenceTransformer(str(tiny_model), device="cpu").encode(texts, normalize_embeddings=True)
    np.testing.assert_allclose(vectors, expected, atol=1e-5)


def test_weights_are_no_export_and_an_engine_alone_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    assert exported_graph(tiny_model) is None
    (tmp_path / "model.plan").touch()
    with pytest.raises(BaseModelError, match="a TensorRT engine alone cannot be checked"):
        exported_graph(tmp_path)


def test_what_is_missing_is_named(exported: Path, tmp_path: Path) -> None:
    (tmp_path / "export").mkdir()
    (tmp_path / "export" / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(BaseModelError, match=r"tokenizer\.json is neither beside it nor in tokenizer/"):
        import_export(tmp_path / "export" / "model.onnx", SETTINGS, tmp_path / "made")
    (tmp_path / "export" / "tokenizer.json").write_text("{}")
    with pytest.raises(BaseModelError, match=r"model\.onnx"):
        import_export(tmp_path / "export" / "model.onnx", SETTINGS, tmp_path / "again")
