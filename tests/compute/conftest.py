"""A project whose stages run on compute targets."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
import yaml

from assets_pkg.automation.execute import run_assets
from assets_pkg.build import build_definitions
from assets_pkg.config.profile_files import load_profile
from storage.paths import EMBEDDING_CACHE
from tests.command.conftest import Workplace, copy_workplace, make_workplace
from tests.compute.slurm_cluster import Cluster, running_cluster
from tests.conftest import made_once
from tests.loopback import free_port

TARGETS = """
[child]
executor = "subprocess"

[my-cluster]
executor = "slurm"
partition = "batch"

[wrong-partition]
executor = "slurm"
partition = "nowhere"

[gated]
executor = "slurm"
setup = ["while [ ! -e gate ]; do sleep 0.1; done"]

[greedy]
executor = "slurm"
mem = "900G"

[far-away]
executor = "slurm"
tunnel = "ssh"
host = "127.0.0.1"
user = "nobody-here"
"""

OWN_PAIRS = ("sdg", "sdg.sdg_input_path=pairs.jsonl")
"""What a command is given for a job that needs no model: reading pairs takes a quarter of the CPU time of training."""


def made_of_own_pairs(place: Workplace) -> bool:
    """Whether there is a version of ``synthetic_qa`` beside that of the prepared project."""
    return len(list((place.home / "output/artifacts/synthetic_qa").glob("*/manifest.json"))) == 2


def embed_in_a_job(place: Workplace, target: str) -> None:
    """Let ``target`` embed the corpus with the promoted model, and index the vectors here.

    The command would also choose the search method, in a job of its own that needs a model.
    """
    settings = (f"compute.stages={{reindex: {target}}}", "search.method=dense")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place.home)
        patch.setenv("DAGSTER_HOME", str(place.home / ".dagster"))
        with dg.DagsterInstance.get() as instance:
            defs = build_definitions(load_profile("profile.yaml", settings))
            outcome = run_assets(defs, instance, ["corpus_embeddings", "vector_index"])
    assert outcome.succeeded, outcome.failures


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Workplace:
    """A project that was run in its own process as far as prep, wherever it is moved to."""

    def make(home: Path) -> None:
        made = make_workplace(home, tiny_model, documents=12)
        profile = made.home / "profile.yaml"
        settings = yaml.safe_load(profile.read_text("utf-8"))
        profile.write_text(yaml.safe_dump({**settings, "artifact_root": "output"}), "utf-8")
        (made.home / "env.toml").write_text(TARGETS, "utf-8")
        pairs = [
            {"question": f"what is checked in case {n}?", "positive": f"Seal {n} is checked."}
            for n in range(9)
        ]
        (made.home / "pairs.jsonl").write_text("\n".join(map(json.dumps, pairs)), "utf-8")
        code, output = made.retune("run", "--to", "prep")
        assert code == 0, output

    return Workplace(made_once(tmp_path_factory, "prepared-project", make), free_port())


@pytest.fixture
def place(tmp_path: Path, prepared: Workplace) -> Workplace:
    """A copy of the prepared project, with an ``env.toml``."""
    copied = shutil.copytree(prepared.home, tmp_path / "place", symlinks=True)
    return Workplace(copied, free_port())


@pytest.fixture
def unindexed(tmp_path: Path, indexed_home: Path) -> Workplace:
    """A copy of a project with a promoted model of whose vectors nothing is left."""
    copied = copy_workplace(indexed_home, tmp_path / "unindexed")
    for made in ("artifacts/corpus_embeddings", "artifacts/vector_index", "reindex", EMBEDDING_CACHE):
        shutil.rmtree(copied.home / "output" / made)
    return copied


@pytest.fixture
def untouched(tmp_path: Path, prepared: Workplace) -> Workplace:
    """The same project before anything was run."""
    left_out = shutil.ignore_patterns("output", ".dagster")
    return Workplace(shutil.copytree(prepared.home, tmp_path / "untouched", ignore=left_out), free_port())


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A real Slurm of one node."""
    with running_cluster(tmp_path_factory.mktemp("slurm")) as started:
        yield started
