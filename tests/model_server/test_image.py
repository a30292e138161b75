"""What the image is made of agrees with the project that it is made from."""

from __future__ import annotations

import ast
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import yaml
from packaging.requirements import Requirement

from resources.models.registry import load_registry

ROOT = Path(__file__).parents[2]
SERVER = ROOT / "assets_pkg" / "model_server"
COMPOSE = SERVER / "docker" / "docker-compose.yaml"
OURS = ("assets_pkg", "resources", "storage")
NAMED = {"PIL": "pillow", "yaml": "pyyaml", "starlette": "fastapi"}
NOT_SERVED = {
    "google",
    "grpc",
    "open_inference",
    "opentelemetry",
}  # of the other server: its gRPC, its traces
ADAPTERS = ("registered_text", "dual_tower", "qwen3_vl", "onnx", "http")


def _requirements(lines: list[str]) -> dict[str, str]:
    return {each.name: str(each.specifier) for each in map(Requirement, lines)}


def _module(name: str) -> Path | None:
    path = ROOT.joinpath(*name.split("."))
    return next((each for each in (path.with_suffix(".py"), path / "__init__.py") if each.is_file()), None)


def _imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (node.module, *(f"{node.module}.{alias.name}" for alias in node.names))


def _reached() -> tuple[set[Path], set[str]]:
    """Our modules that the server can import, within functions too, and the packages that they import."""
    waiting = ["assets_pkg.model_server.__main__", *(f"resources.encoders.{name}" for name in ADAPTERS)]
    ours, others = set[Path](), set[str]()
    while waiting:
        path = _module(waiting.pop())
        if path is None or path in ours:
            continue
        ours.add(path)
        names = list(_imported(path))
        waiting += [name for name in names if name.partition(".")[0] in OURS]
        others |= {name.partition(".")[0] for name in names} - {*OURS, *sys.stdlib_module_names}
    return ours, others


def test_the_images_requirements_are_the_projects() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    theirs = _requirements(project["dependencies"])
    mine = _requirements((SERVER / "requirements.txt").read_text().splitlines())
    assert set(mine) - set(theirs) == {"httptools", "uvloop"}  # of uvicorn[standard]
    assert {name: text for name, text in mine.items() if name in theirs}.items() <= theirs.items()


def test_the_image_has_everything_that_the_server_imports() -> None:
    ours, others = _reached()
    packages = {NAMED.get(name, name).replace("_", "-") for name in others - NOT_SERVED}
    assert packages <= set(_requirements((SERVER / "requirements.txt").read_text().splitlines()))
    copied = [ROOT / "assets_pkg" / "nim", SERVER, ROOT / "resources", ROOT / "storage"]
    missing = [path for path in ours if not any(path.is_relative_to(folder) for folder in copied)]
    assert missing == []


def test_the_compose_file_serves_at_the_port_that_the_registry_names() -> None:
    service = yaml.safe_load(COMPOSE.read_text())["services"]["model"]
    model = service["command"][0].removeprefix("${MODEL:-").removesuffix("}")
    port = str(load_registry(ROOT / "models.yaml").get(model).base_url).rpartition(":")[2]
    assert service["ports"] == [f"127.0.0.1:${{PORT:-{port}}}:{port}"]
    assert (COMPOSE.parent / service["build"]["context"] / service["build"]["dockerfile"]).resolve().is_file()
    dockerfile = (SERVER / "Dockerfile").read_text()
    assert f"EXPOSE {port}" in dockerfile
    assert f'"--port", "{port}"' in dockerfile
    folder = service["volumes"][0].partition("-")[2].partition("}")[0]
    assert (COMPOSE.parent / folder).resolve() == ROOT / "embedding_models"
