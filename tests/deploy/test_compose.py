"""The compose file, brought up for real: the server, and a Prometheus that finds and scrapes it.

The image of Prometheus cannot be had without a registry, so under its name stands one made of Debian's package.
"""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import docker
import httpx2
import pytest
import yaml

from assets_pkg.deploy.backends.own_image import IMAGE_FOLDER
from assets_pkg.deploy.server_state import ServedModel, served_digest
from resources.containers import ContainerEngine
from tests.apt import install_packages, unpack_package
from tests.containers.engine import BASE, shared_libraries
from tests.loopback import free_port

COMPOSE = IMAGE_FOLDER / "docker" / "docker-compose.yaml"
PATIENCE_S = 90


@pytest.fixture(scope="module")
def prometheus_image(engine: ContainerEngine, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A real Prometheus under the name that the compose file asks for."""
    work = tmp_path_factory.mktemp("prometheus")
    unpack_package("prometheus", work)
    program = work / "usr" / "bin" / "prometheus"
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        archive.add(program, "bin/prometheus")
        for library in shared_libraries([program]):
            archive.add(library.resolve(), str(library).lstrip("/"))
    image = yaml.safe_load(COMPOSE.read_text())["services"]["prometheus"]["image"]
    repository, _, tag = image.partition(":")
    client = docker.DockerClient(base_url=engine.base_url, timeout=120)
    arguments = '"--config.file=/etc/prometheus/prometheus.yml", "--storage.tsdb.path=/prometheus"'
    changes = ['ENTRYPOINT ["/bin/prometheus"]', f"CMD [{arguments}]", "EXPOSE 9090"]
    client.api.import_image_from_data(stream.getvalue(), repository=repository, tag=tag, changes=changes)
    client.close()
    return image


NV_INGEST = IMAGE_FOLDER / "docker" / "nv-ingest.yaml"
THEIRS = """
services:
  embedding:
    image: nvcr.io/nim/nvidia/llama-3.2-nv-embedqa-1b-v2:1.10.1
    runtime: nvidia
    ports: ["8012:8000", "8013:8001", "8014:8002"]
  nv-ingest-ms-runtime:
    image: {image}
    entrypoint: ["python", "-c", "import time; time.sleep(600)"]
    stop_grace_period: 1s
    environment: ["EMBEDDING_NIM_ENDPOINT=http://elsewhere:8000/v1"]
"""
"""As much of nv-ingest's own file as its two services need; the runtime only asks."""

ASKS = """
import json, os, urllib.request as r
base, model = os.environ["EMBEDDING_NIM_ENDPOINT"], os.environ["EMBEDDING_NIM_MODEL_NAME"]
body = {"model": model, "input": ["text"], "encoding_format": "float", "input_type": "passage", "truncate": "END"}
head = {"Content-Type": "application/json", "Authorization": "Bearer <no key provided>"}
answer = json.load(r.urlopen(r.Request(base + "/embeddings", json.dumps(body).encode(), head)))
about = json.load(r.urlopen(base + "/metadata"))
print(answer["model"], len(answer["data"]), about["modelInfo"][0]["shortName"].split(":")[0])
"""

Compose = Callable[..., str]


@pytest.fixture
def compose(engine: ContainerEngine, models: tuple[ServedModel, ServedModel]) -> Iterator[Compose]:
    """Runs ``docker-compose`` on the file; what it brought up goes at the end."""
    install_packages({"docker-compose": "docker-compose"})
    environment = {
        "PATH": os.environ["PATH"],
        "DOCKER_HOST": str(engine.base_url),
        "MODEL_FOLDER": str(models[0].onnx),
        "PORT": str(free_port()),
    }

    def run(*arguments: str) -> str:
        done = subprocess.run(
            ["docker-compose", "-p", "retune-test", "-f", COMPOSE, *arguments],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    yield run
    run("down", "--timeout", "20", "--volumes")


def _eventually(look: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        try:
            if found := look():
                return found
        except (httpx2.HTTPError, LookupError):
            time.sleep(0.3)
    raise AssertionError("time is up")


def test_the_stack_comes_up_and_is_scraped(
    compose: Compose, engine: ContainerEngine, models: tuple[ServedModel, ServedModel], prometheus_image: str
) -> None:
    settled = yaml.safe_load(compose("config"))["services"]
    assert settled["prometheus"]["image"] == prometheus_image
    compose("up", "-d")
    url = f"http://{settled['embedding']['ports'][0].rpartition(':')[0]}"
    _eventually(lambda: served_digest(url) == models[0].digest)
    answer = httpx2.post(f"{url}/v1/embeddings", json={"input": ["text"] * 64, "input_type": "query"})
    assert len(answer.json()["data"]) == 64
    question = {"query": 'retune_texts_total{job="retune-embedding"}'}

    def scraped() -> bool:
        reply = httpx2.get("http://127.0.0.1:9090/api/v1/query", params=question, timeout=5).json()
        return float(reply["data"]["result"][0]["value"][1]) >= 64

    _eventually(scraped)


def test_the_server_in_it_is_hardened(compose: Compose, engine: ContainerEngine) -> None:
    compose("up", "-d", "embedding")
    client = docker.DockerClient(base_url=engine.base_url)
    identity = compose("ps", "-q", "embedding").strip()
    host = client.containers.get(identity).attrs["HostConfig"]
    assert (host["ReadonlyRootfs"], host["CapDrop"], host["Privileged"]) == (True, ["ALL"], False)
    assert [each.endswith(":/model:ro") for each in host["Binds"]] == [True]
    client.close()


def test_it_takes_the_place_of_nv_ingests_service(
    engine: ContainerEngine, models: tuple[ServedModel, ServedModel], tmp_path: Path
) -> None:
    install_packages({"docker-compose": "docker-compose"})
    theirs = tmp_path / "docker-compose.yaml"
    theirs.write_text(THEIRS.format(image=BASE))
    environment = {
        "PATH": os.environ["PATH"],
        "DOCKER_HOST": str(engine.base_url),
        "MODEL_FOLDER": str(models[0].onnx),
    }

    def run(*arguments: str) -> str:
        files = ["-f", str(theirs), "-f", str(NV_INGEST)]
        command = ["docker-compose", "-p", "nv-ingest-test", *files, *arguments]
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False, timeout=120
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    try:
        run("up", "-d", "--scale", "embedding=0")
        _eventually(lambda: served_digest("http://127.0.0.1:8012") == models[0].digest)
        name = "nvidia/llama-3.2-nv-embedqa-1b-v2"
        asked = run("exec", "-T", "nv-ingest-ms-runtime", "python", "-c", ASKS)
        assert asked.split() == [name, "1", name]
    finally:
        run("down", "--timeout", "2", "--volumes")


def test_a_folder_must_be_named(engine: ContainerEngine, compose: Compose) -> None:
    environment = {"PATH": os.environ["PATH"], "DOCKER_HOST": str(engine.base_url)}
    said = subprocess.run(
        ["docker-compose", "-f", Path(COMPOSE), "config"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert said.returncode != 0
    assert "the folder that the export wrote" in said.stderr
