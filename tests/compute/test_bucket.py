"""Jobs that make artifacts in a bucket: with the credentials of their own environment, whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from assets_pkg.automation.execute import run_assets
from assets_pkg.build import build_definitions
from assets_pkg.config.profile_files import load_profile
from assets_pkg.orchestration.history import data_version
from assets_pkg.orchestration.pipes_client import make_job
from resources.compute.stage_targets import StageTargets
from resources.compute.targets import ComputeTarget
from storage.artifacts import Passages
from storage.remote_store import RemoteArtifactStore, local_folder
from tests.command.conftest import Workplace
from tests.compute.slurm_cluster import Cluster
from tests.s3.server import Answer, Network, Request, S3Server, network_to, require_keys, running_s3

MADE = ("raw_corpus", "passages")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A server that takes only requests signed with its key, which is in the environment."""
    with running_s3(tmp_path_factory.mktemp("s3")) as anyone, pytest.MonkeyPatch.context() as patch:
        server = require_keys(anyone)
        for name, value in server.environment.items():
            patch.setenv(name, value)
        yield server


@pytest.fixture
def url(server: S3Server) -> str:
    return f"s3://{server.new_bucket()}/team"


@pytest.fixture
def here(untouched: Workplace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workplace:
    """The project as the working folder, with a cache of its own for artifacts at a URL."""
    monkeypatch.chdir(untouched.home)
    monkeypatch.setenv("RETUNE_CACHE", str(tmp_path / "cache"))
    return untouched


@pytest.fixture
def network(server: S3Server) -> Iterator[Network]:
    with network_to(server) as between:
        yield between


def latest(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What the project's history says of each asset."""
    monkeypatch.setenv("DAGSTER_HOME", str(place.home / ".dagster"))
    with dg.DagsterInstance.get() as instance:
        events = {asset: instance.get_latest_materialization_event(dg.AssetKey(asset)) for asset in MADE}
    made = {asset: event.asset_materialization for asset, event in events.items() if event}
    return {asset: data_version(each) for asset, each in made.items() if each}


def describe_place(place: Workplace, executor: str, cache: Path, **variables: str) -> None:
    """A place whose jobs have a cache of their own, as on another machine."""
    exported = "".join(f', {name} = "{value}"' for name, value in variables.items())
    (place.home / "env.toml").write_text(
        f'[there]\nexecutor = "{executor}"\nremote_job_dir = "{place.home / "jobs"}"\n'
        f'env_vars = {{ RETUNE_CACHE = "{cache}"{exported} }}\n',
        "utf-8",
    )


def holds(path: Path, text: str) -> bool:
    return path.is_file() and text.encode() in path.read_bytes()


@pytest.mark.slow
def test_what_a_job_makes_reaches_the_bucket_whole_or_not_at_all(
    here: Workplace,
    prepared: Workplace,
    server: S3Server,
    network: Network,
    url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    describe_place(here, "subprocess", tmp_path / "jobs-cache", AWS_ENDPOINT_URL=network.url)
    commands: list[str] = []

    def kills_the_job(request: Request) -> Answer | None:
        if request.method != "PUT" or "/passages.parquet" not in request.path:
            return None
        job = here.await_job()
        commands.extend(job.cmdline())
        job.kill()
        return Answer(0)

    network.meddle = kills_the_job
    profile = load_profile("profile.yaml", [f"artifact_root={url}", "compute.run_on=there"])
    defs, second = build_definitions(profile), RemoteArtifactStore(url, tmp_path / "second")
    with dg.DagsterInstance.ephemeral() as instance:
        outcome = run_assets(defs, instance, ["raw_corpus", "passages"])
        assert [(each.step, each.trace) for each in outcome.failures] == [("passages", "")]
        assert "there: " in outcome.failures[0].message
        assert [len(second.versions(asset)) for asset in ("raw_corpus", "passages")] == [1, 0]
        network.meddle = lambda request: None
        assert run_assets(defs, instance, ["passages"]).succeeded
    made = {asset: second.versions(asset) for asset in ("raw_corpus", "passages")}
    assert made == {asset: [version] for asset, version in latest(prepared, monkeypatch).items()}
    second.verify(second.get(Passages, "passages", made["passages"][0]))
    assert server.secret not in " ".join(commands)
    assert [path for path in tmp_path.rglob("*") if holds(path, server.secret)] == []


def test_containers_get_what_they_share_with_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RETUNE_CACHE", str(tmp_path / "cache"))
    url, jobs = "s3://bucket/team", tmp_path / "jobs"
    root = local_folder(url)
    targets = StageTargets(profile=json.dumps({"artifact_root": url}))
    docker = ComputeTarget(executor="docker", container_image="retune:latest")
    cluster = ComputeTarget(executor="slurm", container_image="/images/retune.sqsh", remote_job_dir=jobs)
    inside = make_job("passages-1", docker, targets, root, ["passages"])
    assert (inside.needs, inside.variables) == ((root,), {"RETUNE_CACHE": str(tmp_path / "cache")})
    there = make_job("passages-1", cluster, targets, root, ["passages"])
    assert (there.folder.path, there.needs, there.variables) == (jobs / "passages-1", (jobs,), {})
    local = StageTargets(profile=json.dumps({"artifact_root": "output"}))
    assert set(make_job("passages-1", cluster, local, root, ["passages"]).needs) == {root, jobs}


def test_a_cluster_makes_what_this_process_makes(
    here: Workplace,
    prepared: Workplace,
    cluster: Cluster,
    url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    describe_place(here, "slurm", tmp_path / "nodes-cache")
    profile = load_profile("profile.yaml", [f"artifact_root={url}", "compute.run_on=there"])
    with dg.DagsterInstance.ephemeral() as instance:
        outcome = run_assets(build_definitions(profile), instance, ["raw_corpus"])
        assert outcome.succeeded, outcome.failures
    (version,) = RemoteArtifactStore(url, tmp_path / "second").versions("raw_corpus")
    assert version == latest(prepared, monkeypatch)["raw_corpus"]
    assert list((tmp_path / "nodes-cache").rglob("manifest.json"))  # made there, fetched here
