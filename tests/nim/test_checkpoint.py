"""A checkpoint without an ONNX export, served by torch: the answers of its export, and plain refusals."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pytest

from assets_pkg.cli.serving import serve
from assets_pkg.export.checkpoint_model import load_checkpoint_model
from assets_pkg.export.onnx import OnnxExportSettings, export_onnx
from assets_pkg.nim.engine import OnnxEncoder
from assets_pkg.nim.manifest import FolderError
from tests.nim.serving import ROOT, environment, serving
from tests.nim.test_process import run

pytestmark = pytest.mark.slow

MODULE = "assets_pkg.export.serve_checkpoint"
TEXTS = ["What tunes a retriever?", "Short", "A retriever is tuned on pairs of questions and passages. " * 8]


@pytest.fixture(scope="module")
def checkpoint(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with prompts of its own."""
    folder = tmp_path_factory.mktemp("checkpoint") / "tuned"
    shutil.copytree(tiny_model, folder)
    path = folder / "config_sentence_transformers.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "prompts": {"query": "query: ", "document": "passage: "}}))
    return folder


@pytest.fixture(scope="module")
def served(checkpoint: Path) -> Generator[Any]:
    with serving(checkpoint, module=MODULE, RETUNE_DRAIN_GRACE_S="0") as running:
        yield running


def vectors(served: Any, role: str) -> npt.NDArray[np.float32]:
    answer = served.embed(input=TEXTS, input_type=role, truncate="END").json()
    return np.array([item["embedding"] for item in answer["data"]], dtype=np.float32)


@pytest.mark.parametrize("role", ["query", "passage"])
def test_same_answers_as_sentence_transformers_and_as_the_export(
    served: Any, checkpoint: Path, tmp_path: Path, role: Literal["query", "passage"]
) -> None:
    from sentence_transformers import SentenceTransformer

    prefixed = [f"{role}: {text}" for text in TEXTS]
    expected = SentenceTransformer(str(checkpoint), device="cpu").encode(prefixed, prompt="")
    answered = vectors(served, role)
    np.testing.assert_allclose(answered, expected, atol=1e-5)
    export_onnx(checkpoint, tmp_path / "onnx", model_id="m", model_digest="ab", settings=OnnxExportSettings())
    np.testing.assert_allclose(answered, OnnxEncoder(tmp_path / "onnx").embed(TEXTS, role), atol=1e-5)


def test_it_says_what_it_serves(served: Any, checkpoint: Path) -> None:
    with served.client as client:
        metadata = client.get("/v1/metadata").json()
        manifest = client.get("/v1/manifest").json()
    assert metadata["id"] == checkpoint.name
    assert len(metadata["modelDigest"]) == 16
    assert (manifest["opset"], manifest["query_prefix"], manifest["max_length"]) == (None, "query: ", 128)


def test_a_damaged_checkpoint_is_refused_in_one_line(checkpoint: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(checkpoint, broken)
    (broken / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(
        FolderError, match=f"{broken} cannot be loaded"
    ) as refused:  # the server logs it and ends
        load_checkpoint_model(broken, None)
    assert len(str(refused.value).splitlines()) == 1


def run_script(script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """A Python process with the folder as its only argument."""
    command = [sys.executable, "-c", script, str(folder)]
    return subprocess.run(command, env=environment(), cwd=ROOT, capture_output=True, text=True, check=False)


def test_an_export_is_served_without_torch(folder: Path) -> None:
    """The process that serves an export imports none of torch's world, even where it is installed."""
    script = (
        "import sys\nfrom pathlib import Path\nfrom assets_pkg.nim.loading import load_export\n"
        "import assets_pkg.nim.server, assets_pkg.nim.grpc_server\nload_export(Path(sys.argv[1]))\n"
        "print([name for name in ('torch', 'transformers', 'dagster') if name in sys.modules])"
    )
    said = run_script(script, folder)
    assert said.returncode == 0, said.stderr
    assert said.stdout.strip() == "[]"


def test_the_server_of_exports_says_how_to_serve_a_checkpoint(checkpoint: Path) -> None:
    status, log = run(checkpoint, "--port", "0")
    assert status == 1
    assert "serving one needs torch: serve its export" in log
    assert f"retune serve --folder {checkpoint}" in log
    assert "Traceback" not in log


@pytest.mark.parametrize(("fixture", "module"), [("checkpoint", MODULE), ("folder", "assets_pkg.nim")])
def test_retune_serve_starts_the_server_that_the_folder_needs(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, fixture: str, module: str
) -> None:
    started: list[list[str]] = []
    monkeypatch.setattr("os.execv", lambda program, command: started.append([program, *command]))
    path: Path = request.getfixturevalue(fixture)
    serve(folder=path, model=None, host="127.0.0.1", port=8003)
    assert started[0][2:6] == ["-m", module, "--model-dir", str(path)]
