"""Errors of the embedding server's modules reach the user as Retune's own, whose message is printed alone."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from assets_pkg.cli.main import main
from assets_pkg.export.exportable import ExportError, check_exportable
from assets_pkg.export.onnx import OnnxExportSettings, export_onnx
from assets_pkg.export.parity import measure_parity
from assets_pkg.nim.model import OnnxModel
from assets_pkg.reindex.searcher import exported_encoder
from storage.errors import RetuneError

UNREADABLE = "\x00\x01"
DIGEST = "ab"


@pytest.fixture(scope="module")
def checkpoint(minilm: Path) -> Path:
    return minilm


@pytest.fixture(scope="module")
def export(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "onnx"
    export_onnx(checkpoint, folder, model_id="m", model_digest=DIGEST, settings=OnnxExportSettings())
    return folder


@pytest.fixture
def damaged(export: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "damaged"
    shutil.copytree(export, folder)
    (folder / "model.onnx").write_bytes(b"not a model")
    return folder


def store_of(folder: Path) -> Any:
    """A store whose current export is ``folder``."""
    return SimpleNamespace(resolve=lambda link: folder)


@pytest.mark.slow
def test_parity_of_a_damaged_export(checkpoint: Path, damaged: Path) -> None:
    with pytest.raises(RetuneError, match=r"model\.onnx cannot be loaded"):
        measure_parity(checkpoint, damaged, ["one text", "another text"])
    (damaged / "retune_model.json").unlink()
    with pytest.raises(RetuneError, match=r"retune_model\.json is missing"):
        measure_parity(checkpoint, damaged, ["one text", "another text"])


@pytest.mark.slow
def test_parity_on_a_text_without_tokens(checkpoint: Path, export: Path) -> None:
    assert measure_parity(checkpoint, export, ["one text", UNREADABLE]).max_cosine_distance < 1e-5


@pytest.mark.slow
def test_parity_of_a_model_that_gives_nan(
    checkpoint: Path, export: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        OnnxModel, "_run", lambda self, ids, mask: np.full((len(ids), 384), np.nan, np.float32)
    )
    with pytest.raises(RetuneError, match="not finite"):
        measure_parity(checkpoint, export, ["one text", "another text"])


def test_search_with_a_damaged_export(damaged: Path) -> None:
    with pytest.raises(RetuneError, match=r"model\.onnx cannot be loaded"):
        exported_encoder(store_of(damaged), DIGEST, "")
    (damaged / "tokenizer.json").unlink()
    with pytest.raises(RetuneError, match=r"tokenizer\.json is missing"):
        exported_encoder(store_of(damaged), DIGEST, "")


def test_search_for_a_query_that_cannot_be_embedded(export: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = exported_encoder(store_of(export), DIGEST, "")
    assert encoder is not None
    assert encoder.embed(["a query"], "query").shape == (1, 384)
    monkeypatch.setattr(OnnxModel, "_run", lambda self, ids, mask: np.zeros((len(ids), 384), np.float32))
    with pytest.raises(RetuneError, match="not finite and of length 1"):
        encoder.embed(["a query"], "query")


def test_an_export_of_another_model_is_not_used(export: Path) -> None:
    assert exported_encoder(store_of(export), "cd", "") is None
    assert exported_encoder(store_of(export), DIGEST, "query: ") is None


def test_retune_serve_ends_with_the_message_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    """`retune serve` replaces its process by the server's, whose messages are its own (see `tests/nim`)."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        monkeypatch.setattr("sys.argv", ["retune", "serve", "--model", "all-minilm", "--port", port])
        # It replaces the handlers of the whole process, for tests that come later too.
        monkeypatch.setattr("assets_pkg.model_server.serve.set_up_logging", lambda _: None)
        with pytest.raises(SystemExit) as ended:
            main()
    assert ended.value.code == 1
    shown = capfd.readouterr().err
    assert "choose another" in " ".join(shown.split())
    assert "Traceback" not in shown


@pytest.mark.slow
@pytest.mark.parametrize("pooling", ["mean", "cls", "lasttoken", "max", "weightedmean"])
def test_what_cannot_be_exported_is_known_from_the_folder(
    pooling: str, llama: Callable[..., Path], tmp_path: Path
) -> None:
    folder = llama(is_causal=True, pooling=pooling)

    def refusal(check: Callable[[], object]) -> str:
        try:
            check()
        except ExportError as error:
            return str(error)
        return ""

    settings = OnnxExportSettings()
    exported = refusal(
        lambda: export_onnx(folder, tmp_path / "onnx", model_id="m", model_digest="d", settings=settings)
    )
    assert refusal(lambda: check_exportable(folder)) == exported
    assert (exported == "") == (pooling in ("mean", "cls", "lasttoken"))


def test_a_model_without_a_fast_tokenizer_is_known_from_the_folder(llama: Callable[..., Path]) -> None:
    folder = llama(is_causal=True)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ExportError, match="fast form"):
        check_exportable(folder)
