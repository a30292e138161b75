"""What ``retune serve --model`` says when it cannot serve, and that a real process serves and stops."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx2
import pytest
import yaml

from assets_pkg.model_server.serve import ServeError, open_served, serve_model
from tests.loopback import free_port
from tests.models import tiny
from tests.models.conftest import CLIP


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a registry of its own and the weights of one tiny model."""
    models = {
        "tiny-clip": CLIP,
        "absent": {**CLIP, "folder": "absent"},
        "served": {"provider_type": "local", "base_url": "http://127.0.0.1:9"},
    }
    (tmp_path / "models.yaml").write_text(yaml.safe_dump({"models": models}), "utf-8")
    tiny.build_clip(tmp_path / "embedding_models" / "clip")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("absent", "absent: no weights in embedding_models/absent"),
        ("served", "has no weights on this machine, only a base_url"),
    ],
)
def test_a_model_without_weights_is_not_served(project: Path, name: str, message: str) -> None:
    with pytest.raises(ServeError, match=message):
        open_served(name)


def test_a_port_in_use_is_reported_before_the_model_is_loaded(project: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ServeError, match=f"cannot serve on 127.0.0.1 port {port}: .*choose another"):
            serve_model("absent", port=port)


@pytest.mark.slow
def test_a_process_serves_and_stops_on_a_signal(project: Path) -> None:
    port = free_port()
    command = [sys.executable, "-m", "assets_pkg.model_server", "tiny-clip", "--port", str(port)]
    with subprocess.Popen(command, cwd=project, stdout=subprocess.PIPE, text=True) as process:
        try:
            url = f"http://127.0.0.1:{port}"
            assert _answers(url, process)
            reply = httpx2.post(f"{url}/txt/embed", json={"input": "red"})
            assert len(reply.json()["embedding"]) == 32
            assert "swagger" in httpx2.get(f"{url}/docs").text.lower()
            process.send_signal(signal.SIGTERM)
            said, _ = process.communicate(timeout=60)
            assert f"tiny-clip is served at {url} (documentation of all routes: {url}/docs)" in said
        finally:
            process.kill()


def _answers(url: str, process: subprocess.Popen[str]) -> bool:
    """Wait until the server answers, or its process has ended."""
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        try:
            return httpx2.get(f"{url}/health", timeout=1).status_code == 200
        except httpx2.TransportError:
            time.sleep(0.05)
    return False
