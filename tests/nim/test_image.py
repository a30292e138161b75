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
    "fastapi_offline": "fastapi-offline",
    "prometheus_client": "prometheus-client",
    "grpc": "grpcio",
    "open_inference": "open-inference-grpc",
    "opentelemetry": "opentelemetry-sdk",
}
BROUGHT_ALONG = {"starlette": "fastapi", "google": "open-inference-grpc"}


def _requirements() -> dict[str, str]:
    lines = (SERVER / "requirements.txt").read_text().splitlines()
    return {each.name: str(each.specifier) for each in map(Requirement, lines)}


def test_the_images_requirements_are_the_projects() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["grpc"], *extras["otel"]]
    theirs = {each.name: str(each.specifier) for each in map(Requirement, wanted)}
    shared = {name: text for name, text in _requirements().items() if name in theirs}
    assert shared == {name: theirs[name] for name in shared}
    assert set(_requirements()) - set(shared) == {"httptools", "uvloop"}  # of uvicorn[standard]


def _imported() -> set[str]:
    """The modules that any module of the server imports, at its top or within a function."""
    imported: set[str] = set()
    for path in SERVER.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add(node.module or "")
    return imported


def test_the_image_has_everything_that_the_server_imports() -> None:
    needed = {name.partition(".")[0] for name in _imported()} - set(sys.stdlib_module_names) - {"assets_pkg"}
    packages = {BROUGHT_ALONG.get(name, IMPORTED_AS.get(name, name)) for name in needed}
    assert packages <= set(_requirements())


def test_of_retune_the_server_imports_itself_alone() -> None:
    ours = {name for name in _imported() if name.partition(".")[0] in ("assets_pkg", "resources", "storage")}
    assert {name for name in ours if not name.startswith("assets_pkg.nim.")} == set()


def test_prometheus_scrapes_the_service_that_the_compose_file_starts() -> None:
    compose = yaml.safe_load((SERVER / "docker" / "docker-compose.yaml").read_text())
    scrape = yaml.safe_load((SERVER / "docker" / "prometheus.yml").read_text())["scrape_configs"][0]
    host, _, port = scrape["static_configs"][0]["targets"][0].partition(":")
    assert host in compose["services"]
    assert compose["services"][host]["ports"][0].endswith(f":{port}")
    assert scrape["metrics_path"] == "/v1/metrics"
    assert (SERVER / "docker" / compose["services"][host]["build"]["context"] / "Dockerfile").exists()
