"""The server as a process: how it starts, refuses to start, is replaced and stops."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest

from assets_pkg.nim.loading import load_export
from assets_pkg.nim.manifest import FolderError
from tests.loopback import free_port
from tests.nim.serving import MODULE, ROOT, Server, command, environment, serving

pytestmark = pytest.mark.slow


def run(folder: Path, *arguments: str, module: str = MODULE, **variables: str) -> tuple[int, str]:
    """Run a server that should not start: its exit status and standard error."""
    done = subprocess.run(
        command(folder, *arguments, module=module),
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=120,
        cwd=ROOT,
        check=False,
    )
    assert done.stdout == ""
    return done.returncode, done.stderr


def test_needs_neither_dagster_nor_torch(folder: Path) -> None:
    script = (
        "import sys; from pathlib import Path\n"
        "from assets_pkg.nim.server import EmbeddingServer\n"
        "from assets_pkg.nim.engine import OnnxEncoder\n"
        f"OnnxEncoder(Path({str(folder)!r})).embed(['a'], 'query')\n"
        "print(sorted({'torch', 'dagster', 'transformers', 'onnx'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment(), capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


def test_serves_a_copied_folder_alone(folder: Path, tmp_path: Path, start: Any) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    with serving(copy) as moved, start() as original:
        assert moved.embed(input="a").json() == original.embed(input="a").json()


@pytest.mark.parametrize("name", ["retune_model.json", "model.onnx", "tokenizer.json"])
def test_missing_and_broken_files_are_named(folder: Path, tmp_path: Path, name: str) -> None:
    shutil.copytree(folder, tmp_path / "model")
    path = tmp_path / "model" / name
    path.write_bytes((folder / name).read_bytes()[:1000][:-20])
    with pytest.raises(FolderError, match=re.escape(str(path))) as refused:
        load_export(tmp_path / "model")
    assert len(str(refused.value).splitlines()) == 1
    path.unlink()
    with pytest.raises(FolderError, match=re.escape(f"{path} is missing")) as refused:
        load_export(tmp_path / "model")
    assert len(str(refused.value).splitlines()) == 1


def test_manifest_that_disagrees_with_the_graph(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "model")
    path = tmp_path / "model" / "retune_model.json"
    path.write_text(path.read_text().replace('"dimensions": 384', '"dimensions": 512'))
    status, log = run(tmp_path / "model", "--port", "0")
    assert status == 1
    assert f"{tmp_path / 'model' / 'model.onnx'}" in log
    assert len(log.splitlines()) == 1


def test_port_in_use(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        status, log = run(folder, "--port", str(port))
    assert status == 1
    assert f"cannot serve on 127.0.0.1 port {port}: Address already in use" in log
    assert len(log.splitlines()) == 1


def test_bad_settings_name_their_source(folder: Path) -> None:
    status, log = run(folder, NIM_HTTP_API_PORT="many")
    assert (status, len(log.splitlines())) == (1, 1)
    assert log.startswith("error: NIM_HTTP_API_PORT: ")
    status, log = run(folder, "--workers", "0")
    assert (status, len(log.splitlines())) == (1, 1)
    assert log.startswith("error: --workers: ")


def test_settings_from_the_environment(folder: Path, start: Any) -> None:
    port = free_port()
    with start(
        "--port", str(port), NIM_HTTP_API_PORT="1", MAX_SEQUENCE_LENGTH="16", NIM_JSONL_LOGGING="1"
    ) as server:
        assert server.url.endswith(f":{port}")
        assert server.embed(input="a b " * 40, truncate="END").json()["usage"]["total_tokens"] == 16


def test_log_lines_can_be_json(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    _, log = run(tmp_path / "empty", "--port", "0", NIM_JSONL_LOGGING="1")
    entry = json.loads(log)
    assert entry["level"] == "ERROR"
    assert entry["message"].endswith("retune_model.json is missing")


def test_stops_after_answering_what_it_took(start: Any) -> None:
    """A request in progress when the server is stopped is answered; it reports not ready; its exit status is 0."""
    with start(RETUNE_DRAIN_GRACE_S="2", NIM_MAX_CLIENT_BATCH_SIZE="400") as server, server.client as client:
        with ThreadPoolExecutor(1) as pool:
            texts = [f"{number} of many texts to embed " * 12 for number in range(120)]
            answer = pool.submit(server.embed, input=texts)
            while not server.metric("retune_queued_tokens"):
                assert not answer.done()
            server.process.send_signal(signal.SIGTERM)
            while (ready := client.get("/v1/health/ready")).status_code == 200:
                time.sleep(0.02)
            assert (ready.status_code, ready.json()["ready"]) == (503, False)
            assert ready.headers["connection"] == "close"
            assert client.get("/v1/health/live").status_code == 200
            assert len(answer.result().json()["data"]) == 120
        assert server.process.wait(30) == 0


def test_idle_server_stops_on_interrupt(start: Any) -> None:
    with start(RETUNE_DRAIN_GRACE_S="0") as server:
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(30) == 0


@pytest.mark.parametrize("keep_alive", [True, False])
def test_replaced_under_load_without_a_failed_request(start: Any, keep_alive: bool) -> None:
    """Three servers in a row on one port, each taking over from the one before, under steady requests."""
    with start("--reuse-port") as first, Load(first.url, keep_alive) as load:
        shared = ("--reuse-port", "--port", first.url.rsplit(":", 1)[1])
        with start(*shared) as second:
            _retire(first)
            with start(*shared) as third:
                _retire(second)
                load.finish()
                assert third.metric('retune_requests_total{code="200",endpoint="/v1/embeddings"}') > 0
    assert set(load.statuses) == {200}
    assert len(load.statuses) > 50


class Load:
    """Clients that send one request after another until the test ends them."""

    def __init__(self, url: str, keep_alive: bool) -> None:
        self.url = url
        self.limits = httpx2.Limits(max_keepalive_connections=20 if keep_alive else 0)
        self.statuses: list[int] = []
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(4)
        self._clients = [self._pool.submit(self._send) for _ in range(4)]

    def __enter__(self) -> Load:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._pool.shutdown()

    def finish(self) -> None:
        """Stop, and raise what any client met with."""
        self._stop.set()
        for client in self._clients:
            client.result()

    def _send(self) -> None:
        with httpx2.Client(base_url=self.url, limits=self.limits, timeout=60, verify=False) as client:
            while not self._stop.is_set():
                answer = client.post("/v1/embeddings", json={"input": "steady"})
                self.statuses.append(answer.status_code)
                self._stop.wait(
                    0.02
                )  # requests without a break would only take the processor from the servers


def _retire(server: Server) -> None:
    os.kill(server.process.pid, signal.SIGTERM)
    assert server.process.wait(60) == 0
