"""The vLLM backend against a stand-in for its program, with vLLM's arguments and HTTP interface.

vLLM does not run without a GPU; these tests cover Retune's part: command, checks, restart of the old server.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from assets_pkg.config.sections.deploy import DeploySettings
from assets_pkg.deploy.backends import vllm
from assets_pkg.deploy.backends.vllm import VllmState
from assets_pkg.deploy.deploy import deploy, read_state, shown_command
from assets_pkg.deploy.interface import VllmInterface
from assets_pkg.deploy.served_encoder import ServedEncoder
from assets_pkg.deploy.server_client import guard_of
from assets_pkg.deploy.server_state import DeployError, ServedModel, SmokeCheck, smoke_check
from assets_pkg.export.onnx import load_checkpoint
from resources.containers import ContainerEngine
from tests.deploy.conftest import NAME, TEXTS

pytestmark = pytest.mark.slow

STAND_IN = """#!{python}
import argparse, json, os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

parser = argparse.ArgumentParser()
parser.add_argument("command", choices=["serve"])
parser.add_argument("model")
parser.add_argument("--runner", choices=["pooling"], required=True)
parser.add_argument("--convert", choices=["embed"], required=True)
parser.add_argument("--served-model-name", required=True)
parser.add_argument("--host", required=True)
parser.add_argument("--port", type=int, required=True)
options = parser.parse_args()
if (Path(options.model) / "broken").exists():
    raise SystemExit("this model is broken")
vectors = json.loads(Path(__file__).with_name("vectors.json").read_text())

class Handler(BaseHTTPRequestHandler):
    def send(self, body):
        content = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def refused(self):
        key = os.environ.get("VLLM_API_KEY")
        if not key or self.headers["Authorization"] == f"Bearer {key}" or self.path == "/health":
            return False
        self.send_error(401)
        return True

    def do_GET(self):
        if self.refused():
            return
        card = dict(id=options.served_model_name, root=options.model, object="model")
        self.send(dict(data=[card]) if self.path == "/v1/models" else dict())

    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.refused():
            return
        if not request:
            return self.send_error(400)
        assert self.path == "/v2/embed" and request["input_type"] in ("query", "document")
        assert request["model"] == options.served_model_name and request["embedding_types"] == ["float"]
        self.send(dict(embeddings=dict(float=[vectors[text] for text in request["texts"]])))

ThreadingHTTPServer((options.host, options.port), Handler).serve_forever()
"""


def no_engine() -> ContainerEngine:
    raise AssertionError("no container is needed")


@pytest.fixture
def expected(tiny_model: Path) -> np.ndarray:
    """Vectors of ``TEXTS``: float32 [n, 32]."""
    return np.asarray(load_checkpoint(tiny_model).encode(list(TEXTS), normalize_embeddings=True))


@pytest.fixture
def smoke(expected: np.ndarray) -> SmokeCheck:
    return smoke_check(NAME, TEXTS, "passage", expected, interface=VllmInterface())


@pytest.fixture
def folder(tmp_path: Path, expected: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for the state, on a machine that seems to have a GPU and vLLM."""
    program = tmp_path / "bin" / "vllm"
    program.parent.mkdir()
    program.write_text(STAND_IN.replace("{python}", sys.executable))
    program.chmod(0o755)
    (program.parent / "vectors.json").write_text(json.dumps(dict(zip(TEXTS, expected.tolist(), strict=True))))
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")
    monkeypatch.setattr(vllm, "has_gpu", lambda: True)
    state_folder = tmp_path / "stage5_deploy"
    yield state_folder
    state = read_state(state_folder)
    if state is not None:
        state.stop()


def test_without_a_gpu_or_the_program_it_is_refused(
    tmp_path: Path,
    models: tuple[ServedModel, ServedModel],
    settings: Callable[..., DeploySettings],
    smoke: SmokeCheck,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wanted = settings(backend="vllm")
    monkeypatch.setattr(vllm, "has_gpu", lambda: False)
    with pytest.raises(DeployError, match="needs a CUDA device"):
        deploy(models[0], wanted, tmp_path / "state", smoke, no_engine)
    monkeypatch.setattr(vllm, "has_gpu", lambda: True)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DeployError, match="pip install vllm"):
        deploy(models[0], wanted, tmp_path / "state", smoke, no_engine)


def test_deployed_asked_and_replaced(
    folder: Path,
    models: tuple[ServedModel, ServedModel],
    settings: Callable[..., DeploySettings],
    smoke: SmokeCheck,
    expected: np.ndarray,
) -> None:
    wanted = settings(backend="vllm")
    state = deploy(models[0], wanted, folder, smoke, no_engine)
    assert isinstance(state, VllmState)
    assert read_state(folder) == state
    assert deploy(models[0], wanted, folder, smoke, no_engine) == state
    command = shown_command(models[0], wanted, folder)
    assert command.startswith(
        f"vllm serve {models[0].checkpoint.resolve()} --runner pooling --convert embed "
    )
    encoder = ServedEncoder(state.url, NAME, 32, "id", VllmInterface())
    np.testing.assert_allclose(encoder.embed(TEXTS, "query"), expected, atol=1e-5)
    encoder.close()
    second = deploy(models[1], wanted, folder, smoke, no_engine)
    assert isinstance(second, VllmState)
    assert second.gap_s > 0
    assert not state.alive()
    with pytest.raises(DeployError, match="cannot take over"):
        deploy(models[0], settings(backend="process"), folder, smoke, no_engine)


def test_a_server_that_does_not_come_up_brings_the_old_one_back(
    folder: Path,
    models: tuple[ServedModel, ServedModel],
    settings: Callable[..., DeploySettings],
    smoke: SmokeCheck,
    tmp_path: Path,
) -> None:
    wanted = settings(backend="vllm")
    old = deploy(models[0], wanted, folder, smoke, no_engine)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "broken").touch()
    broken = ServedModel(models[1].onnx, tmp_path / "broken", models[1].digest)
    with pytest.raises(DeployError, match="this model is broken"):
        deploy(broken, wanted, folder, smoke, no_engine)
    back = read_state(folder)
    assert back is not None
    assert back.alive()
    assert back.serves_its_model()
    assert back.model_digest == old.model_digest


def test_another_folder_than_the_one_meant_is_not_taken_for_it(
    folder: Path,
    models: tuple[ServedModel, ServedModel],
    settings: Callable[..., DeploySettings],
    smoke: SmokeCheck,
) -> None:
    state = deploy(models[0], settings(backend="vllm"), folder, smoke, no_engine)
    assert isinstance(state, VllmState)
    assert state.serves_its_model()
    assert not replace(state, model_folder="/other").serves_its_model()


def test_the_key_reaches_the_server_and_its_tests(
    folder: Path,
    models: tuple[ServedModel, ServedModel],
    settings: Callable[..., DeploySettings],
    smoke: SmokeCheck,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wanted = settings(backend="vllm")
    opened = deploy(models[0], wanted, folder, smoke, no_engine)
    monkeypatch.setenv("RETUNE_API_KEY", "canary")
    state = deploy(models[0], wanted, folder, smoke, no_engine)
    assert not opened.alive()
    assert state.serves_its_model()
    assert guard_of(state.url, VllmInterface().path) == "our key"
    assert deploy(models[0], wanted, folder, smoke, no_engine) == state
    assert "canary" not in "".join(file.read_text() for file in folder.iterdir())


def test_a_vllm_that_checks_no_key_is_not_served_with_one(
    folder: Path,
    models: tuple[ServedModel, ServedModel],
    settings: Callable[..., DeploySettings],
    smoke: SmokeCheck,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    program = folder.parent / "bin" / "vllm"
    program.write_text(program.read_text().replace("VLLM_API_KEY", "IGNORED"))
    monkeypatch.setenv("RETUNE_API_KEY", "canary")
    with pytest.raises(
        DeployError, match=r"RETUNE_API_KEY is set, and the server answers requests to /v2/embed"
    ):
        deploy(models[0], settings(backend="vllm"), folder, smoke, no_engine)
    assert read_state(folder) is None
