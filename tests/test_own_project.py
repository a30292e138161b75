"""A Dagster project of somebody else, with Retune in it: the one in docs/own_project, and such with awkward names."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from assets_pkg.config.profile_files import load_profile

CHECKOUT = Path(__file__).parents[1]
HEAVY = ("torch", "transformers", "datasets", "lancedb")
LOAD = """
import json, sys, time
started = time.process_time()
import definitions
seconds = time.process_time() - started
import resources, resources.encoders
keys = definitions.defs.resolve_asset_graph().get_all_asset_keys()
print(json.dumps({
    "seconds": seconds,
    "heavy": [name for name in %r if name in sys.modules],
    "resources": [resources.__file__, resources.encoders.__file__],
    "assets": sorted(key.to_user_string() for key in keys),
}))
"""
IN_PROCESS = {"execution": {"config": {"in_process": {}}}}
ASSETS = ["articles", "rules", "faq/raw_corpus", "house/raw_corpus", "faq/passages", "longest_passage"]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    shutil.copytree(CHECKOUT / "docs/own_project", tmp_path / "project")
    (tmp_path / "home").mkdir()
    return tmp_path / "project"


def run(*command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT), "DAGSTER_HOME": str(cwd.parent / "home")}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_the_project_loads_in_seconds_without_torch_and_keeps_its_own_resources(project: Path) -> None:
    done = run(sys.executable, "-c", LOAD % (HEAVY,), cwd=project)
    assert done.returncode == 0, done.stderr
    loaded = json.loads(done.stdout)
    assert loaded["seconds"] < 5
    assert loaded["heavy"] == []
    assert loaded["resources"] == [
        str(project / "resources.py"),
        str(CHECKOUT / "resources/encoders/__init__.py"),
    ]
    assert {*ASSETS, "faq/vector_index", "house/vector_index"} <= set(loaded["assets"])


@pytest.mark.slow
def test_dagster_materializes_across_the_projects_own_assets_and_retunes(project: Path) -> None:
    selected = " or ".join(f'key:"{key}"' for key in ASSETS)
    command = [
        str(Path(sys.executable).parent / "dagster"),
        "asset",
        "materialize",
        "-f",
        "definitions.py",
        "-d",
        ".",
    ]
    done = run(*command, "--select", selected, "--config-json", json.dumps(IN_PROCESS), cwd=project)
    assert done.returncode == 0, done.stderr
    summaries = {
        name: json.loads(
            next((project / "output" / name).glob("artifacts/raw_corpus/*/summary.json")).read_text()
        )
        for name in ("faq", "house")
    }
    assert (summaries["faq"]["documents"], summaries["house"]["documents"]) == (5, 3)
    assert "Materialized value longest_passage" in done.stderr


@pytest.mark.parametrize("first", ["resources", "assets_pkg"])
@pytest.mark.parametrize(
    ("own", "ok"),
    [
        ({"resources.py": "database = 1\n"}, True),
        ({"resources/__init__.py": "database = 1\n", "resources/tables.py": ""}, True),
        ({"resources.py": "database = 1\ncompute = 2\n"}, False),
        ({"resources/__init__.py": "database = 1\n", "resources/compute.py": ""}, False),
    ],
    ids=["module", "package", "attribute-in-conflict", "module-in-conflict"],
)
def test_a_project_has_resources_of_its_own(
    own: dict[str, str], ok: bool, first: str, tmp_path: Path
) -> None:
    for name, text in own.items():
        (tmp_path / "host" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "host" / name).write_text(text, "utf-8")
    script = (
        f"import {first}, assets_pkg, resources; print(resources.database); import resources.compute.errors"
    )
    done = run(sys.executable, "-c", script, cwd=tmp_path / "host")
    assert (done.returncode, done.stdout) == (0 if ok else 1, "1\n"), done.stderr
    assert ok or "has a 'compute' of its own, and so has Retune: rename it" in done.stderr


def test_the_values_for_a_cluster_start_what_the_image_has(project: Path) -> None:
    values = yaml.safe_load((project / "values.yaml").read_text("utf-8"))
    (deployment,) = values["dagster-user-deployments"]["deployments"]
    image = (project / "Dockerfile").read_text("utf-8")
    command = json.loads(
        next(line for line in image.splitlines() if line.startswith("CMD")).removeprefix("CMD")
    )
    assert command[-2:] == deployment["codeServerArgs"] == ["--module-name", "definitions"]
    assert f"EXPOSE {deployment['port']}" in image
    (mount,) = deployment["volumeMounts"]
    root = load_profile(str(project / "faq.yaml")).artifact_root
    assert (Path("/app") / root).is_relative_to(mount["mountPath"])


def test_retune_is_the_same_as_the_public_package() -> None:
    import assets_pkg
    import retune

    assert retune.__all__ == assets_pkg.__all__
    assert retune.build_definitions is assets_pkg.build_definitions
