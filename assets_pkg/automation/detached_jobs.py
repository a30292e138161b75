"""Detached jobs: submitted, recorded, and picked up when they have ended.

A job builds what it can without a decision (everything up to the promotion, or what comes after it); what it built
lies in the artifact store under the keys that the pick-up run looks for, so picking up is a run of the same assets
that finds them made.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import dagster as dg

from assets_pkg.config.profile import Profile
from assets_pkg.orchestration.pipes_client import describe_work, make_job, profile_for_jobs
from assets_pkg.orchestration.resources import build_resources
from resources.compute.errors import ComputeError
from resources.compute.executors import make_executor
from resources.compute.host import ThisHost, open_host
from resources.compute.job import JobSpec, State
from resources.compute.job_monitor import JobMonitor, why_failed
from resources.compute.targets import ComputeTarget
from resources.configurable import ComputeResource
from storage.paths import DETACHED_JOBS

DECIDED_HERE = ("promoted_model", "running_nim", "nim_eval_metrics")


@dataclass(frozen=True)
class DetachedJob:
    """The record of a detached job.

    Attributes:
        assets: all that were asked for; the pick-up run makes them.
        profile: the settings they were asked for with, as JSON.
        folder: the job's files, where the job sees them.
        standing: ``submitted`` until somebody saw it end; ``taken`` when its work was picked up.
    """

    name: str
    place: str
    environment: dict[str, Any]
    handle: str
    assets: tuple[str, ...]
    folder: str
    profile: str
    submitted: str
    standing: Literal["submitted", "done", "failed", "cancelled", "taken"] = "submitted"
    reason: str = ""


class DetachedJobs:
    """The detached jobs of one artifact root."""

    def __init__(self, root: Path, compute: ComputeResource):
        self.root = root.absolute()
        self.compute = compute

    def stage(self, instance: dg.DagsterInstance, defs: dg.Definitions, assets: Sequence[str]) -> Path:
        """Write what would be submitted, and submit nothing; returns the script, which also runs by hand."""
        _, environment, job, work = self._prepare(instance, defs, assets)
        host = open_host(environment)
        host.write(job.work, work)
        host.write(job.script, make_executor(environment).script(job))
        return job.script

    def submit(
        self, instance: dg.DagsterInstance, defs: dg.Definitions, assets: Sequence[str]
    ) -> DetachedJob:
        """Start a job that makes ``assets``, and record it."""
        place, environment, job, work = self._prepare(instance, defs, assets)
        attendance = JobMonitor(place, environment, job)
        attendance.submit(job, work)
        batch = DetachedJob(
            name=job.name,
            place=place,
            environment=environment.model_dump(mode="json"),
            handle=attendance.handle or "",
            assets=tuple(assets),
            folder=str(job.folder),
            profile=self.compute.profile,
            submitted=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        try:
            self._keep(batch)
        except BaseException:
            attendance.executor.cancel(batch.handle)
            raise
        return batch

    def all(self) -> list[DetachedJob]:
        """Newest first."""
        files = sorted((self.root / DETACHED_JOBS).glob("*.json"), reverse=True)
        told = (json.loads(file.read_text("utf-8")) for file in files)
        return [DetachedJob(**{**each, "assets": tuple(each["assets"])}) for each in told]

    def find(self, name: str) -> DetachedJob:
        """The batch of that name, or of its beginning.

        Raises:
            ComputeError: there is none, or there are several.
        """
        found = [batch for batch in self.all() if batch.name.startswith(name)]
        if len(found) != 1:
            known = ", ".join(batch.name for batch in self.all()) or "none"
            raise ComputeError(f"{len(found)} batch jobs are called {name!r}; there are: {known}")
        return found[0]

    def open(self) -> Iterator[tuple[DetachedJob, State]]:
        """Every batch whose work was not picked up and may come, and how it stands now; an end is recorded."""
        for batch in self.all():
            if batch.standing == "submitted":
                yield batch, self._look(batch)
            elif batch.standing == "done":
                yield batch, State("done")

    def describe(self, batch: DetachedJob) -> str:
        """How it stands now, in words."""
        if batch.standing != "submitted":
            return f"{batch.standing} {batch.reason}".strip()
        return str(self._look(batch))

    def taken(self, batch: DetachedJob) -> None:
        """Its work was picked up."""
        self._keep(replace(batch, standing="taken"))

    def _look(self, batch: DetachedJob) -> State:
        environment, job = _target(batch), _job(batch)
        state = make_executor(environment).state(batch.handle, job)
        if state.standing == "failed":
            state = replace(state, reason=why_failed(state, open_host(environment), job))
        if state.over:
            self._keep(replace(batch, standing=state.standing, reason=state.reason))
        return state

    def cancel(self, batch: DetachedJob) -> None:
        make_executor(_target(batch)).cancel(batch.handle)
        self._keep(replace(batch, standing="cancelled", reason="cancelled by hand"))

    def log(self, batch: DetachedJob) -> str:
        """What the job has written so far."""
        return open_host(_target(batch)).read(_job(batch).log).decode("utf-8", "replace")

    def _prepare(
        self, instance: dg.DagsterInstance, defs: dg.Definitions, assets: Sequence[str]
    ) -> tuple[str, ComputeTarget, JobSpec, str]:
        place = self.compute.target_of("")
        if place is None:
            raise ComputeError("a detached job needs a place: --batch NAME, with NAME in env.toml")
        name, environment = place
        graph = defs.resolve_asset_graph()
        made = _without_decisions(assets)
        known = graph.get_all_asset_keys()
        work = describe_work(instance, known, made, profile_for_jobs(self.compute), environment)
        stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S-%f")
        job = make_job(f"batch-{stamp}", environment, self.compute, self.root, made, detached=True)
        return name, environment, job, work.dump()

    def _keep(self, batch: DetachedJob) -> None:
        ThisHost().write(self._record(batch), json.dumps(asdict(batch), indent=1))

    def _record(self, batch: DetachedJob) -> Path:
        return self.root / DETACHED_JOBS / f"{batch.name}.json"


def open_detached_jobs(profile: Profile) -> DetachedJobs:
    """The detached jobs of the profile's artifact root."""
    resources = build_resources(profile)
    return DetachedJobs(resources.store.get().root, resources.compute)


def same_work(batch: DetachedJob, profile: Profile) -> bool:
    """Whether ``profile`` would make what the batch was asked to make."""
    how = {"compute", "automation"}
    asked = Profile.model_validate_json(batch.profile)
    return asked.model_dump(exclude=how) == profile.model_dump(exclude=how)


def _without_decisions(assets: Sequence[str]) -> list[str]:
    """Those that a job can make: up to the first asset that is decided here, or none but the rest."""
    first = next((at for at, asset in enumerate(assets) if asset in DECIDED_HERE), len(assets))
    made = list(assets[:first]) if first else [asset for asset in assets if asset not in DECIDED_HERE]
    if not made:
        raise ComputeError(
            f"{', '.join(assets)}: decided and started here, not in a job; run without --batch"
        )
    return made


def _target(batch: DetachedJob) -> ComputeTarget:
    return ComputeTarget.model_validate(batch.environment)


def _job(batch: DetachedJob) -> JobSpec:
    return JobSpec(batch.name, Path(batch.folder), Path.cwd(), ())
