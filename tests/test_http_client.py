"""Every HTTP client of Retune with a recording proxy in the environment: it sees nothing that stays on this machine."""

from __future__ import annotations

import ast
import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest

from assets_pkg.deploy.backends.vllm import VllmState
from assets_pkg.deploy.served_encoder import ServedEncoder
from assets_pkg.deploy.server_state import DeployError, is_ready, served_digest, smoke_check
from resources.chat_model.client import ChatModel
from resources.chat_model.config import ChatConfig
from resources.chat_model.errors import EndpointError
from resources.encoders.http import HttpEncoder, ServiceError, server_problem
from resources.endpoints import is_this_machine
from resources.http_client import (
    HostNotAllowedError,
    bypass_proxies_on_this_machine,
    http_client,
    own_server_client,
)
from resources.models.entry import Endpoint, ModelEntry
from resources.vector_store.base import VectorStoreError
from resources.vector_store.milvus import MilvusIndex
from tests.loopback import free_port, serving

ROOT = Path(__file__).parents[1]
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
REMOTE = "http://embeddings.invalid/v1"


class Recorder(ThreadingHTTPServer):
    """Answers each request with the status and headers in ``replies`` for its path, by default as every service that
    Retune asks would; keeps what it is asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.seen: list[tuple[str, dict[str, str], bytes]] = []
        self.replies: dict[str, tuple[int, dict[str, str]]] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


ANSWER = {
    "model": "m",
    "modelDigest": "d",
    "data": [{"index": 0, "embedding": [0.6, 0.8], "id": "m", "root": "/m"}],
    "choices": [{"message": {"content": "yes"}}],
}


class _Handler(BaseHTTPRequestHandler):
    server: Recorder

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.seen.append((self.path, dict(self.headers), body))
        status, headers = self.server.replies.get(self.path, (200, {}))
        said = json.dumps(ANSWER).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    do_GET = do_POST = do_CONNECT = _answer

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


@pytest.fixture
def service() -> Iterator[Recorder]:
    with serving(Recorder()) as server:
        yield server


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Recorder]:
    """A proxy that the environment names for everything."""
    with serving(Recorder()) as server:
        for name in PROXIES:
            monkeypatch.setenv(name, server.url)
            monkeypatch.setenv(name.lower(), server.url)
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.delenv(name, raising=False)
        yield server


def _entry(base_url: str, **facts: Any) -> ModelEntry:
    return ModelEntry(adapter="http", dialect="openai", base_url=base_url, **facts)


def _ask(config: ChatConfig, key: str | None = None) -> str:
    async def main() -> str:
        async with ChatModel(config, key).session(1) as session:
            return (await session.ask("m", [{"role": "user", "content": "a secret question"}])).text

    return asyncio.run(main())


# ---- this machine --------------------------------------------------------------------------------------------


def test_the_proxy_of_the_environment_is_one_that_clients_would_use(
    service: Recorder, proxy: Recorder
) -> None:
    httpx2.get(service.url)
    assert (len(proxy.seen), len(service.seen)) == (1, 0)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0"])
def test_the_deployed_server_is_asked_directly(host: str, service: Recorder, proxy: Recorder) -> None:
    url = f"http://{host}:{service.server_port}"
    assert is_ready(url)
    assert served_digest(url) == "d"
    encoder = ServedEncoder(url, "m", 2, "id")
    np.testing.assert_allclose(encoder.embed(["a secret passage"], "passage"), [[0.6, 0.8]], rtol=1e-6)
    encoder.close()
    smoke_check("m", ["a secret passage"], "passage", np.array([[0.6, 0.8]]))(url)
    state = VllmState(1, 0.0, host, service.server_port, "d", "/m", "log", served_name="m")
    assert state.serves_its_model()
    assert proxy.seen == []
    paths = {path for path, *_ in service.seen}
    assert paths == {"/v1/health/ready", "/v1/metadata", "/v1/embeddings", "/health", "/v1/models"}


def test_a_dead_port_is_not_ready_although_a_proxy_answers(proxy: Recorder) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    assert not is_ready(url)
    assert served_digest(url) is None
    assert not VllmState(1, 0.0, "127.0.0.1", port, "d", "/m", "log", served_name="m").serves_its_model()
    encoder = ServedEncoder(url, "m", 2, "id")
    with pytest.raises(DeployError, match="does not answer"):
        encoder.embed(["a secret passage"], "passage")
    encoder.close()
    with pytest.raises(DeployError, match="does not answer"):
        smoke_check("m", ["a secret passage"], "passage", np.ones((1, 2)))(url)
    assert "no server answers" in (server_problem("m", _entry(f"{url}/v1")) or "")
    assert proxy.seen == []


def test_models_on_this_machine_are_asked_directly(
    service: Recorder, proxy: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "X-Mine: somebody")
    monkeypatch.setenv("OPENAI_ORG_ID", "somebody")
    monkeypatch.setenv("OPENAI_API_KEY", "somebody")
    encoder = HttpEncoder("m", _entry(f"{service.url}/v1"))
    np.testing.assert_allclose(encoder.embed(["a secret passage"], "passage"), [[0.6, 0.8]], rtol=1e-6)
    encoder.close()
    assert server_problem("m", _entry(f"{service.url}/v1")) is None
    assert _ask(ChatConfig(f"{service.url}/v1", tmp_path / "answers.sqlite")) == "yes"
    assert proxy.seen == []
    assert len(service.seen) == 3
    assert "somebody" not in str(service.seen)


@pytest.mark.slow
def test_a_milvus_on_this_machine_is_asked_directly(proxy: Recorder) -> None:
    with pytest.raises(VectorStoreError, match="no Milvus answers"):
        MilvusIndex(f"http://127.0.0.1:{free_port()}", "c")
    assert proxy.seen == []


@pytest.mark.parametrize("given", ["", "intranet.example.org, 10.0.0.0/8"])
def test_clients_of_libraries_ask_this_machine_directly(
    given: str, service: Recorder, proxy: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Docker's, Ray's and an object store's: one is made of each kind of library that they use."""
    import botocore.utils
    import docker
    import requests

    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, given)
    bypass_proxies_on_this_machine()
    host = f"127.0.0.1:{service.server_port}"
    assert docker.DockerClient(base_url=f"tcp://{host}", version="1.45").ping() in (True, False)
    requests.post(f"http://localhost:{service.server_port}/api/jobs", json={}, timeout=10)
    assert not {"http", "https"} & botocore.utils.get_environ_proxies(f"http://{host}").keys()
    assert proxy.seen == []
    assert {path.rpartition("/")[2] for path, *_ in service.seen} == {"_ping", "jobs"}
    assert os.environ["NO_PROXY"].startswith(given.replace(" ", ""))
    assert os.environ["no_proxy"].endswith("localhost,127.0.0.1,::1")


@pytest.mark.slow
def test_the_health_check_of_the_container_asks_the_server_itself(service: Recorder, proxy: Recorder) -> None:
    file = (ROOT / "assets_pkg" / "nim" / "Dockerfile").read_text().replace("\\\n", "")
    command = next(line.partition(" CMD ")[2] for line in file.splitlines() if line.startswith("HEALTHCHECK"))
    arguments = [sys.executable, *json.loads(command)[1:]]

    def check(port: int) -> int:
        environment = {**os.environ, "NIM_HTTP_API_PORT": str(port)}
        return subprocess.run(arguments, env=environment, capture_output=True, check=False).returncode

    assert check(service.server_port) == 0
    assert check(free_port()) == 1
    assert proxy.seen == []
    assert [path for path, *_ in service.seen] == ["/v1/health/ready"]


# ---- other machines ------------------------------------------------------------------------------------------


def test_without_consent_nothing_reaches_the_proxy(proxy: Recorder, tmp_path: Path) -> None:
    with pytest.raises(HostNotAllowedError, match=r"approved_endpoints=\[embeddings\.invalid\]"):
        http_client(REMOTE, timeout=1)
    with pytest.raises(HostNotAllowedError, match=r"embeddings\.invalid is not this machine"):
        own_server_client("http://embeddings.invalid", timeout=1)
    with pytest.raises(ServiceError, match="nothing was sent"):
        HttpEncoder("m", _entry(REMOTE)).embed(["a secret passage"], "passage")
    assert proxy.seen == []


def test_a_host_with_consent_is_reached_by_the_proxy_of_the_environment(
    proxy: Recorder, tmp_path: Path
) -> None:
    encoder = HttpEncoder("m", _entry(REMOTE), approved_endpoints=["embeddings.invalid"])
    assert encoder.embed(["a passage"], "passage").shape == (1, 2)
    encoder.close()
    config = ChatConfig(REMOTE, tmp_path / "a.sqlite", approved_endpoints=("embeddings.invalid",))
    assert _ask(config, "key") == "yes"
    assert [path for path, *_ in proxy.seen] == [f"{REMOTE}/embeddings", f"{REMOTE}/chat/completions"]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_no_redirect_is_followed(status: int, service: Recorder, proxy: Recorder, tmp_path: Path) -> None:
    elsewhere = status, {"Location": "http://elsewhere.invalid/"}
    service.replies = {
        "/v1/embeddings": elsewhere,
        "/v1/chat/completions": elsewhere,
        "/v1/health/ready": elsewhere,
    }
    with pytest.raises(ServiceError, match=f"HTTP {status}"):
        HttpEncoder("m", _entry(f"{service.url}/v1")).embed(["a secret passage"], "passage")
    with pytest.raises(EndpointError, match="redirects are not followed"):
        _ask(ChatConfig(f"{service.url}/v1", tmp_path / "answers.sqlite"))
    with pytest.raises(DeployError, match=f"answered {status}"):
        ServedEncoder(service.url, "m", 2, "id").embed(["a secret passage"], "passage")
    assert not is_ready(service.url)
    assert proxy.seen == []
    assert len(service.seen) == 4


def test_a_path_cannot_lead_to_another_host(service: Recorder, proxy: Recorder) -> None:
    entry = _entry(service.url, text_endpoint=Endpoint(path="@elsewhere.invalid/embeddings"))
    with pytest.raises(HostNotAllowedError, match=r"would go to elsewhere\.invalid"):
        HttpEncoder("m", entry).embed(["a secret passage"], "passage")
    assert proxy.seen == service.seen == []


@pytest.mark.parametrize(
    ("host", "ours"),
    [
        ("127.0.0.1", True),
        ("::1", True),
        ("0.0.0.0", True),
        ("::", True),
        ("localhost", True),
        ("8.8.8.8", False),
        ("elsewhere.invalid", False),
    ],
)
def test_what_this_machine_is(host: str, ours: bool) -> None:
    assert is_this_machine(host) == ours


# ---- the one factory -----------------------------------------------------------------------------------------

LIBRARIES = {"httpx2", "httpx", "requests", "aiohttp", "urllib3", "openai"}
MAKES_CLIENTS = {"AsyncClient", "AsyncOpenAI", "Client", "ClientSession", "OpenAI", "PoolManager", "Session"}
MAKES_CLIENTS |= {"build_opener", "delete", "get", "head", "post", "put", "request", "stream", "urlopen"}


def _made_clients(file: Path) -> list[str]:
    calls = [
        node.func
        for node in ast.walk(ast.parse(file.read_text("utf-8")))
        # One that is handed an HTTP client makes none.
        if isinstance(node, ast.Call) and not any(each.arg == "http_client" for each in node.keywords)
    ]
    by_module = [
        call.attr
        for call in calls
        if isinstance(call, ast.Attribute) and isinstance(call.value, ast.Name) and call.value.id in LIBRARIES
    ]
    by_name = [
        call.id for call in calls if isinstance(call, ast.Name) and call.id in ("urlopen", "build_opener")
    ]
    return [name for name in by_module + by_name if name in MAKES_CLIENTS]


def test_clients_are_made_in_one_place() -> None:
    files = [
        file for folder in ("assets_pkg", "resources", "storage") for file in (ROOT / folder).rglob("*.py")
    ]
    assert [file.relative_to(ROOT).as_posix() for file in files if _made_clients(file)] == [
        "resources/http_client.py"
    ]
