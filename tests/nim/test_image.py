"""What the image is made of agrees with the project that it is made from."""

from __future__ import annotations

import ast
import sys
import tomllib
from pathlib import Path

import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
SERVER = ROOT / "assets_pkg" / "nim"
IMPORTED_AS = {
    "prometheus_client": "prometheus-client",
    "grpc": "grpcio",
    "open_inference": "open-inference-grpc",
}
BROUGHT_ALONG = {"starlette": "fastapi"}


def _requirements() -> dict[str, str]:
    lines = (SERVER / "requirements.txt").read_text().splitlines()
    return {each.name: str(each.specifier) for each in map(Requirement, lines)}


def test_the_images_requirements_are_the_projects() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["grpc"]]
    theirs = {each.name: str(each.specifier) for each in map(Requirement, wanted)}
    shared = {name: text for name, text in _requirements().items() if name in theirs}
    assert shared == {name: theirs[name] for name in shared}
    assert set(_requirements()) - set(shared) == {"httptools", "uvloop"}  # of uvicorn[standard]


def test_the_image_has_everything_that_the_server_imports() -> None:
    imported: set[str] = set()
    left_out = (SERVER / ".dockerignore").read_text().splitlines()
    for path in (path for path in SERVER.glob("*.py") if path.name not in left_out):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            imported |= {name.partition(".")[0] for name in names}
    needed = imported - set(sys.stdlib_module_names) - {"assets_pkg"}
    packages = {BROUGHT_ALONG.get(name, IMPORTED_AS.get(name, name)) for name in needed}
    assert packages <= set(_requirements())


def test_prometheus_scrapes_the_service_that_the_compose_file_starts() -> None:
    compose = yaml.safe_load((SERVER / "docker" / "docker-compose.yaml").read_text())
    scrape = yaml.safe_load((SERVER / "docker" / "prometheus.yml").read_text())["scrape_configs"][0]
    host, _, port = scrape["static_configs"][0]["targets"][0].partition(":")
    assert host in compose["services"]
    assert compose["services"][host]["ports"][0].endswith(f":{port}")
    assert scrape["metrics_path"] == "/v1/metrics"
    assert (SERVER / "docker" / compose["services"][host]["build"]["context"] / "Dockerfile").exists()
