"""What ended jobs left goes with ``retune gc``; what belongs to an open job stays."""

from __future__ import annotations

import json
import os
import tempfile
import time
import traceback
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from typer.testing import CliRunner

from assets_pkg.automation.detached_jobs import (
    DetachedJob,
    DetachedJobs,
    Status,
    open_detached_jobs,
    same_settings,
)
from assets_pkg.automation.job_cleanup import find_ended_jobs
from assets_pkg.cli.main import app
from assets_pkg.config.profile import Profile
from assets_pkg.config.profile_files import load_profile
from assets_pkg.orchestration.pipes_client import WORKER
from resources.compute.errors import ComputeError
from resources.compute.host import ThisHost
from resources.compute.job import JobFolder, JobSpec
from resources.compute.job_monitor import JobMonitor
from resources.compute.stage_targets import StageTargets
from resources.compute.targets import ComputeTarget, read_target
from storage.artifact_store import ArtifactStore
from storage.paths import DETACHED_JOBS, JOBS
from tests.conftest import write_profile

NOBODY = 65534


@pytest.fixture
def profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Profile]:
    """A project with a target whose jobs end at once, and one whose jobs end when there is a file ``gate``."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / ".dagster"))
    waiting = tmp_path / "waiting"
    waiting.write_text(f"#!/bin/sh\nwhile [ ! -e {tmp_path}/gate ]; do sleep 0.05; done\n", "utf-8")
    waiting.chmod(0o755)
    (tmp_path / "env.toml").write_text(
        '[quick]\nexecutor = "subprocess"\npython = "true"\n'
        f'[gated]\nexecutor = "subprocess"\npython = "{waiting}"\n'
        '[gone]\nexecutor = "subprocess"\n',
        "utf-8",
    )
    settings = write_profile(tmp_path / "p.yaml", corpus=tmp_path, model=tmp_path, root=tmp_path / "output")
    yield load_profile(str(settings))
    (tmp_path / "gate").touch()


@pytest.fixture
def jobs(profile: Profile) -> Path:
    return Path(profile.artifact_root) / ".jobs"


def start(jobs: Path, target: str, name: str) -> JobMonitor:
    job = JobSpec(name, JobFolder(jobs / name), WORKER, Path.cwd(), ())
    monitor = JobMonitor(target, read_target(Path("env.toml"), target), job.folder)
    monitor.submit(job, "{}")
    return monitor


def finish(jobs: Path, name: str) -> None:
    monitor = start(jobs, "quick", name)
    until(lambda: monitor.executor.state(monitor.handle or "", monitor.folder).over)


def until(found: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not found():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def age(jobs: Path, *names: str) -> None:
    """The first one is the oldest."""
    for number, name in enumerate(names):
        for path in (jobs / "batches" / f"{name}.json", *(jobs / name).glob("*")):
            if path.exists():
                os.utime(path, (1_000_000 + number, 1_000_000 + number))


def would_go(profile: Profile, keep: int) -> set[str]:
    return {job.name for job in find_ended_jobs(open_detached_jobs(profile), keep)}


def test_the_newest_ended_jobs_of_each_asset_stay(profile: Profile, jobs: Path) -> None:
    names = [f"checkpoint-{letter}" for letter in "cab"]
    for name in [*names, "passages-a"]:
        finish(jobs, name)
    age(jobs, *names)
    assert would_go(profile, keep=1) == {"checkpoint-c", "checkpoint-a"}
    assert would_go(profile, keep=2) == {"checkpoint-c"}
    assert would_go(profile, keep=3) == set()


def test_an_open_job_stays_however_old_it_is(profile: Profile, jobs: Path, tmp_path: Path) -> None:
    running, killed, unasked = (
        start(jobs, "gated", "checkpoint-1"),
        start(jobs, "gated", "checkpoint-2"),
        start(jobs, "gated", "checkpoint-3"),
    )
    record = json.loads((jobs / "checkpoint-3" / "submitted.json").read_text())
    (jobs / "checkpoint-3" / "submitted.json").write_text(json.dumps({**record, "place": "no-more"}))
    (jobs / "checkpoint-4").mkdir()  # written, and to be submitted in a moment
    (jobs / "checkpoint-4" / "work.json").write_text("{}")
    finish(jobs, "checkpoint-5")
    victim = psutil.Process(int((killed.handle or "").partition(":")[0]))
    for process in [victim, *victim.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):  # its child may end with it
            process.kill()
    psutil.wait_procs([victim], timeout=10)
    names = [f"checkpoint-{number}" for number in range(1, 6)]
    age(jobs, *names)
    assert would_go(profile, keep=1) == {"checkpoint-2"}
    (tmp_path / "gate").touch()
    for each in (running, unasked):
        until(lambda each=each: each.executor.state(each.handle or "", each.folder).over)
    age(jobs, *names)
    assert would_go(profile, keep=1) == {"checkpoint-1", "checkpoint-2", "checkpoint-3"}


@pytest.mark.slow
def test_gc_removes_detached_jobs_that_were_picked_up_and_keeps_the_others(
    profile: Profile, jobs: Path, tmp_path: Path
) -> None:
    target = read_target(Path("env.toml"), "quick")
    statuses: tuple[Status, ...] = ("taken", "failed", "done", "submitted", "cancelled", "taken")
    names = [f"batch-2026010{number}-000000-000000" for number in range(len(statuses))]
    (jobs / "batches").mkdir(parents=True)
    folder = JobFolder(jobs)
    plain = DetachedJob(
        "", "quick", target, "1:1", ("checkpoint",), folder, "{}", "2026-01-01T00:00:00+00:00"
    )
    for name, status in zip(names, statuses, strict=True):
        (jobs / name).mkdir()
        (jobs / name / "log.txt").write_text("x" * 1000)
        job = replace(plain, name=name, folder=JobFolder(jobs / name), status=status)
        (jobs / "batches" / f"{name}.json").write_text(job.dump())
    age(jobs, *names)

    def gc(*options: str) -> str:
        done = CliRunner().invoke(app, ["gc", "--keep", "1", "-c", str(tmp_path / "p.yaml"), *options])
        assert done.exit_code == 0, done.output
        return done.output

    shown = gc("-d")
    assert [line.split()[1] for line in shown.splitlines() if line.startswith("job ")] == [
        names[4],
        names[1],
        names[0],
    ]
    assert "3 ended jobs, 0.0 MB would be deleted" in shown
    assert all((jobs / name).exists() for name in names)
    assert "3 ended jobs, 0.0 MB deleted" in gc()
    left = {names[number] for number in (2, 3, 5)}
    assert {path.name for path in jobs.glob("batch-*")} == left
    assert {path.stem for path in (jobs / "batches").iterdir()} == left
    assert "0 ended jobs" in gc()


def test_jobs_of_another_artifact_root_are_named_by_the_same_override(
    profile: Profile, jobs: Path, tmp_path: Path
) -> None:
    finish(jobs, "batch-1")
    target, folder = read_target(Path("env.toml"), "quick"), JobFolder(jobs / "batch-1")
    job = DetachedJob("batch-1", "quick", target, "1:1", ("checkpoint",), folder, "{}", "", "taken")
    (jobs / "batches").mkdir()
    (jobs / "batches" / "batch-1.json").write_text(job.dump())

    def listed(root: Path) -> str:
        command = ["jobs", "list", "-c", str(tmp_path / "p.yaml"), f"artifact_root={root}"]
        return CliRunner().invoke(app, command).output

    assert "batch-1" in listed(jobs.parent)
    assert "no job was submitted" in listed(tmp_path / "other")


@contextmanager
def as_another_user(*private: Path) -> Generator[None]:
    """What is ``private`` to its user cannot be read in the block."""
    if os.geteuid() != 0:
        for path in private:
            path.chmod(0)
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def test_jobs_of_other_users_are_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        root.chmod(0o755)
        detached = DetachedJobs(ArtifactStore(root), StageTargets())
        job = JobFolder(root / JOBS / "checkpoint-1")
        target = ComputeTarget(executor="subprocess")
        theirs = DetachedJob(
            "batch-1", "child", target, "1:1", ("checkpoint",), job, "{}", "2026-01-01T00:00:00"
        )
        detached.mark_taken(theirs)
        ThisHost().write(job.submission, "{}")
        ThisHost().write(job.exit_code, "0\n")
        record = root / DETACHED_JOBS / "batch-1.json"
        assert [each.name for each in detached.all()] == ["batch-1"]
        with as_another_user(record, job.path):
            assert detached.all() == []
            assert f"{record}: another user's job, left out" in caplog.text
            assert list(find_ended_jobs(detached, keep=0)) == []
            with pytest.raises(ComputeError, match=r"it is another user's.*set remote_job_dir"):
                JobMonitor("child", target, job)
        record.chmod(0o600)
        job.path.chmod(0o700)


def test_a_record_whose_target_is_no_longer_accepted_is_named_without_its_values(tmp_path: Path) -> None:
    detached = DetachedJobs(ArtifactStore(tmp_path), StageTargets())
    target = ComputeTarget(executor="subprocess", env_vars={"PROXY": "PLACE"})
    job = DetachedJob(
        "batch-1", "child", target, "1:1", ("checkpoint",), JobFolder(tmp_path), "{}", "2026-01-01"
    )
    record = tmp_path / DETACHED_JOBS / "batch-1.json"
    record.parent.mkdir(parents=True)
    record.write_text(job.dump().replace("PLACE", "http://me:c4nary@proxy:3128"), "utf-8")
    with pytest.raises(
        ComputeError, match=r"batch-1\.json.*PROXY: holds a URL with.*delete this file"
    ) as caught:
        detached.all()
    assert "c4nary" not in "".join(traceback.format_exception(caught.value))
    with_key = replace(job, profile=json.dumps({"corpus": {"corpus_dir": "http://me:c4nary@host/x"}}))
    assert not same_settings(with_key, load_profile("laptop"))
