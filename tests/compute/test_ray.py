"""Ray: Ray Data in a Ray that is started for a job, and jobs of a Ray that is there."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sentence_transformers import SentenceTransformer

from assets_pkg.orchestration.pipes_client import WORKER
from resources.compute.distributed_embedding import RayEmbedding
from resources.compute.errors import ComputeError
from resources.compute.host import Unreachable
from resources.compute.job import JobFolder, JobSpec
from resources.compute.ray_jobs import RayExecutor
from resources.compute.targets import ComputeTarget
from resources.encoders.encoder_config import EncoderConfig
from resources.encoders.recipe import EncoderRecipe
from resources.encoders.shards import Shards
from storage.progress import no_progress
from tests.command.conftest import Workplace
from tests.compute.conftest import OWN_PAIRS, embed_in_a_job, made_of_own_pairs
from tests.compute.slow_encoder import SlowRecipe, expected
from tests.loopback import free_port
from tests.waiting import until


@pytest.fixture(scope="module")
def ray_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Ray of its own processes with a token; the address of its dashboard."""
    port, dashboard = free_port(), free_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN", "a" * 64)
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")  # as it is in a job of the cluster
        ray = [sys.executable, "-m", "ray.scripts.scripts"]
        options = [f"--port={port}", f"--dashboard-port={dashboard}", "--num-cpus=4"]
        options += [f"--dashboard-agent-listen-port={free_port()}"]
        options += [
            "--object-store-memory=100000000",
            "--block",
            "--no-monitor",
            "--include-log-monitor=false",  # no test reads workers' output
            "--min-worker-port=0",
            "--max-worker-port=0",
        ]
        log = (tmp_path_factory.mktemp("ray") / "log").open("wb")
        head = subprocess.Popen(
            [*ray, "start", "--head", *options], stdout=log, stderr=log, start_new_session=True
        )
        address = f"http://127.0.0.1:{dashboard}"

        def answers() -> bool:
            assert head.poll() is None, Path(log.name).read_text()
            try:
                RayExecutor(ComputeTarget(executor="ray", address=address)).check()
            except ComputeError:
                return False
            return True

        until(answers)
        yield address
        children = psutil.Process(head.pid).children(recursive=True)
        for process in children:
            with suppress(psutil.NoSuchProcess):  # it ended because another did
                process.kill()
        head.kill()
        head.wait(60)


@pytest.fixture
def two_workers(ray_cluster: str) -> ComputeTarget:
    return ComputeTarget(executor="ray", address=ray_cluster, num_workers=2)


def write_texts(folder: Path, texts: list[str], block: int) -> Shards:
    pq.write_table(pa.table({"text": texts}), folder / "texts.parquet", row_group_size=1000)
    (folder / "shards").mkdir()
    return Shards(folder / "texts.parquet", folder / "shards", "passage", block)


def test_two_workers_make_all_vectors_and_a_killed_one_costs_its_shard(
    two_workers: ComputeTarget, tmp_path: Path
) -> None:
    texts = [f"text {number}" for number in range(200)]
    shards = write_texts(tmp_path, texts, 10)

    def kill() -> None:
        until((tmp_path / "victim").exists)
        os.kill(int((tmp_path / "victim").read_text()), signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    recipe = SlowRecipe(str(tmp_path), "text 57", EncoderConfig())
    reported: list[int] = []

    def progress(done: int, total: int, unit: str, **figures: float) -> None:
        reported.append(done)

    RayEmbedding(two_workers, recipe)(shards, progress)
    killer.join()
    assert not shards.missing()
    assert reported[-1] == len(texts)
    encoder = recipe.open()
    np.testing.assert_array_equal(np.concatenate(list(shards.vectors(encoder))), expected(texts))
    asked = (tmp_path / "asked.txt").read_text().splitlines()
    assert sorted(asked) == sorted([*texts[::10], "text 50"])


def test_what_a_worker_met_is_told_plainly(two_workers: ComputeTarget, tmp_path: Path) -> None:
    shards = write_texts(tmp_path, ["text"], 10)
    recipe = EncoderRecipe(str(tmp_path / "nowhere"), "tiny", EncoderConfig(batch_size=64), device="cpu")
    with pytest.raises(ComputeError, match=r"a worker failed: EncoderError: .*nowhere: no such model folder"):
        RayEmbedding(two_workers, recipe)(shards, no_progress)
    crowd = two_workers.model_copy(update={"num_workers": 64})
    with pytest.raises(ComputeError, match="num_workers = 64, but this Ray has"):
        RayEmbedding(crowd, recipe)(shards, no_progress)


def test_a_stage_runs_as_a_job_of_the_cluster(place: Workplace, ray_cluster: str) -> None:
    (place.home / "env.toml").write_text(f'[ray]\nexecutor = "ray"\naddress = "{ray_cluster}"\n', "utf-8")
    code, output = place.retune(*OWN_PAIRS, "--run", "ray")
    assert code == 0, output
    assert "ray: running" in output
    assert made_of_own_pairs(place)


LOCAL = """
[local-ray]
executor = "ray"
address = "local"
num_workers = 2
"""


@pytest.mark.slow
def test_a_corpus_is_embedded_in_a_ray_of_its_own(unindexed: Workplace) -> None:
    (unindexed.home / "env.toml").write_text(LOCAL, "utf-8")
    embed_in_a_job(unindexed, "local-ray")
    made = unindexed.home / "output" / "artifacts"
    embeddings = next((made / "corpus_embeddings").iterdir())
    assert {each.name for each in embeddings.iterdir()} == {
        "embeddings.json",
        "embeddings.parquet",
        "manifest.json",
    }
    digest = json.loads((embeddings / "embeddings.json").read_text())["model_digest"]
    model = SentenceTransformer(str(next(made.glob(f"*/{digest}")) / "model" / "consolidated"), device="cpu")
    model.max_seq_length = 64
    texts = pq.read_table(next((made / "passages").iterdir()) / "passages.parquet").column("text").to_pylist()
    vectors = pq.read_table(embeddings / "embeddings.parquet").column("vector").to_pylist()
    np.testing.assert_allclose(
        np.array(vectors), model.encode(texts, normalize_embeddings=True, convert_to_numpy=True), atol=1e-5
    )


def test_a_job_is_stopped_and_its_end_is_reported(ray_cluster: str, tmp_path: Path) -> None:
    sleeper = tmp_path / "python"
    sleeper.write_text("#!/bin/sh\necho begun\nwhile :; do sleep 0.1; done\n")
    sleeper.chmod(0o755)
    executor = RayExecutor(ComputeTarget(executor="ray", address=ray_cluster, python=str(sleeper)))
    job = JobSpec("sleeper", JobFolder(tmp_path / "job"), WORKER, tmp_path, ())
    handle = executor.submit(job)
    until(lambda: job.folder.log.exists() and "begun" in job.folder.log.read_text())
    assert executor.state(handle, job.folder).status == "running"
    executor.cancel(handle)
    until(lambda: executor.state(handle, job.folder).over)
    state = executor.state(handle, job.folder)
    assert (state.status, state.reason) == ("cancelled", "stopped with ray job stop")


def test_a_failed_job_reports_its_exit_code(ray_cluster: str, tmp_path: Path) -> None:
    failing = tmp_path / "python"
    failing.write_text("#!/bin/sh\necho no such luck\nexit 3\n")
    failing.chmod(0o755)
    given = {
        "executor": "ray",
        "address": ray_cluster,
        "python": str(failing),
        "secrets": ("RETUNE_NOT_THERE",),
    }
    job = JobSpec("failing", JobFolder(tmp_path / "job"), WORKER, tmp_path, ())
    executor = RayExecutor(ComputeTarget.model_validate({**given, "secrets": ()}))
    handle = executor.submit(job)
    until(lambda: executor.state(handle, job.folder).over)
    assert executor.state(handle, job.folder).reason == "exit code 3"
    assert "no such luck" in job.folder.log.read_text()
    job = JobSpec("without", JobFolder(tmp_path / "another"), WORKER, tmp_path, ())
    executor = RayExecutor(ComputeTarget.model_validate(given))
    handle = executor.submit(job)
    until(lambda: executor.state(handle, job.folder).over)
    assert "RETUNE_NOT_THERE: is not set on the cluster" in job.folder.log.read_text()


def test_an_unreachable_cluster_and_a_missing_token_are_plain_errors(
    ray_cluster: str, tmp_path: Path
) -> None:
    nowhere = RayExecutor(ComputeTarget(executor="ray", address=f"http://127.0.0.1:{free_port()}"))
    with pytest.raises(Unreachable, match="does not answer: is its dashboard there"):
        nowhere.check()
    probe = "from resources.compute.targets import ComputeTarget as E\n"
    probe += "from resources.compute.ray_jobs import RayExecutor\n"
    probe += f"RayExecutor(E(executor='ray', address={ray_cluster!r})).check()"
    without = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    command = [sys.executable, "-c", probe]
    home = {**without, "HOME": str(tmp_path)}
    done = subprocess.run(command, env=home, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "wants a token" in done.stderr.splitlines()[-1]
