"""A detached job that is done is open until a run has picked it up: not before, and not by one that failed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import pytest

from assets_pkg.automation.detached_jobs import DetachedJob
from assets_pkg.build import build_definitions
from assets_pkg.config.profile_files import load_profile
from resources.compute.job import JobFolder
from resources.compute.targets import ComputeTarget
from resources.configurable import AlertsResource
from tests.conftest import write_profile

NAME = "batch-20260101-000000-000000"


@dataclass
class Project:
    """A project with one detached job that is done, and the sensor that picks it up."""

    instance: dg.DagsterInstance
    defs: dg.Definitions
    record: Path

    @property
    def recorded(self) -> str:
        return str(json.loads(self.record.read_text("utf-8"))["standing"])

    def tick(self) -> dg.SensorResult | dg.SkipReason:
        sensor = self.defs.resolve_sensor_def("pick_up_batch_jobs")
        with dg.build_sensor_context(instance=self.instance, definitions=self.defs) as context:
            made = sensor(context, alerts=AlertsResource())
        assert isinstance(made, dg.SensorResult | dg.SkipReason)
        return made

    def skipped(self) -> str:
        made = self.tick()
        assert isinstance(made, dg.SkipReason)
        return str(made.skip_message)

    def requested(self) -> dg.RunRequest:
        made = self.tick()
        assert isinstance(made, dg.SensorResult)
        (request,) = made.run_requests or []
        return request

    def run(self, request: dg.RunRequest, fails: bool) -> str:
        """What the daemon does with a request: a run with its tags; returns the run's id."""

        @dg.asset
        def checkpoint() -> None:
            if fails:
                raise RuntimeError("no disk")

        ran = dg.materialize([checkpoint], instance=self.instance, tags=request.tags, raise_on_error=False)
        return ran.run_id


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    monkeypatch.chdir(tmp_path)
    settings = write_profile(tmp_path / "p.yaml", corpus=tmp_path, model=tmp_path, root=tmp_path / "output")
    profile = load_profile(str(settings))
    record = tmp_path / "output" / ".jobs" / "batches" / f"{NAME}.json"
    record.parent.mkdir(parents=True)
    job = DetachedJob(
        NAME,
        "child",
        ComputeTarget(executor="subprocess"),
        "1:1",
        ("checkpoint",),
        JobFolder(tmp_path / "output" / ".jobs" / NAME),
        profile.model_dump_json(),
        "2026-01-01T00:00:00+00:00",
        "done",
    )
    record.write_text(job.dump(), "utf-8")
    with dg.DagsterInstance.ephemeral() as instance:
        yield Project(instance, build_definitions(profile), record)


def test_a_requested_job_is_open_until_its_run_has_succeeded(project: Project) -> None:
    request = project.requested()
    assert project.recorded == "done"
    assert request.run_key == NAME  # the daemon launches one run for it, however often it is requested
    assert project.requested().run_key == NAME
    run = project.run(request, fails=False)
    assert project.skipped() == f"{NAME}: picked up by run {run}"
    assert project.recorded == "taken"
    assert project.skipped() == "no detached job"


def test_a_failed_run_leaves_the_job_open_and_says_so(project: Project) -> None:
    request = project.requested()
    failed = project.run(request, fails=True)
    assert project.skipped() == (
        f"{NAME}: done, but run {failed}, which was to pick it up, failed: re-execute it, or `retune jobs pick-up`"
    )
    assert project.recorded == "done"
    project.run(request, fails=False)  # a re-execution keeps the tags
    project.tick()
    assert project.recorded == "taken"


def test_a_job_that_is_being_picked_up_is_not_requested_again(project: Project) -> None:
    request = project.requested()
    running = project.instance.create_run_for_job(
        project.defs.resolve_job_def("retune"), status=dg.DagsterRunStatus.STARTED, tags=request.tags
    )
    assert project.skipped() == f"{NAME}: done, being picked up by run {running.run_id}"
    assert project.recorded == "done"
