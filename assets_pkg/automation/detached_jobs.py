"""Detached jobs: submitted, recorded, and picked up when they have ended.

A job builds what needs no decision: everything up to the promotion, or what comes after it. Its artifacts lie in the
store under the keys that the pick-up run looks for, so picking up is a run of the same assets that reuses them.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import dagster as dg
from pydantic import ValidationError

from assets_pkg.config.profile import Profile
from assets_pkg.orchestration.pipes_client import make_job, make_request
from assets_pkg.orchestration.resources import build_resources
from resources.compute.errors import ComputeError
from resources.compute.executors import make_executor
from resources.compute.host import ThisHost, open_host
from resources.compute.job import JobFolder, JobSpec, JobState
from resources.compute.job_monitor import JobMonitor, why_failed
from resources.compute.stage_targets import StageTargets
from resources.compute.targets import ComputeTarget
from storage.artifact_store import ArtifactStore
from storage.paths import DETACHED_JOBS

LOG = logging.getLogger(__name__)
DECIDED_HERE = ("promoted_model", "running_nim", "nim_eval_metrics")
"""Assets that no job makes: decided or started on this machine."""

JOB_TAG = "retune/batch"
"""On runs that pick a job up: its name."""

Status = Literal["submitted", "done", "failed", "cancelled", "taken"]
PickUp = Literal["none", "running", "failed", "succeeded"]


@dataclass(frozen=True)
class DetachedJob:
    """The record of a detached job.

    Attributes:
        target_name: the name of the compute target, at the time of the submission.
        target: its description.
        assets: all that were asked for; the pick-up run makes them.
        folder: the job's files, where the job sees them.
        profile: the settings, as JSON.
        submitted: ISO 8601, UTC.
        status: ``submitted`` until its end was seen; ``taken`` when a run has picked it up.
        reason: of a job that failed or was cancelled.
    """

    name: str
    target_name: str
    target: ComputeTarget
    handle: str
    assets: tuple[str, ...]
    folder: JobFolder
    profile: str
    submitted: str
    status: Status = "submitted"
    reason: str = ""

    @property
    def tags(self) -> Mapping[str, str]:
        """The tags of a run that picks it up."""
        return {JOB_TAG: self.name}

    def dump(self) -> str:
        record = {
            "name": self.name,
            "place": self.target_name,
            "environment": self.target.model_dump(mode="json"),
            "handle": self.handle,
            "assets": list(self.assets),
            "folder": str(self.folder.path),
            "profile": self.profile,
            "submitted": self.submitted,
            "standing": self.status,
            "reason": self.reason,
        }
        return json.dumps(record, indent=1)

    @classmethod
    def load(cls, text: str) -> DetachedJob:
        record: dict[str, Any] = json.loads(text)
        return cls(
            name=record["name"],
            target_name=record["place"],
            target=ComputeTarget.model_validate(record["environment"]),
            handle=record["handle"],
            assets=tuple(record["assets"]),
            folder=JobFolder(Path(record["folder"])),
            profile=record["profile"],
            submitted=record["submitted"],
            status=record["standing"],
            reason=record["reason"],
        )


class DetachedJobs:
    """The detached jobs of one artifact root."""

    def __init__(self, store: ArtifactStore, targets: StageTargets):
        self.store = store
        self.targets = targets

    def stage(
        self,
        instance: dg.DagsterInstance,
        defs: dg.Definitions,
        assets: Sequence[str],
        forced: Collection[str] = (),
    ) -> Path:
        """Write what would be submitted, and submit nothing; returns the script, which also runs by hand."""
        _, target, job, request = self._prepare(instance, defs, assets, forced)
        host = open_host(target)
        host.write(job.folder.request, request)
        host.write(job.folder.script, make_executor(target).script(job))
        return job.folder.script

    def submit(
        self,
        instance: dg.DagsterInstance,
        defs: dg.Definitions,
        assets: Sequence[str],
        forced: Collection[str] = (),
    ) -> DetachedJob:
        """Start a job that makes ``assets``, those of ``forced`` even if they were made before, and record it."""
        target_name, target, spec, request = self._prepare(instance, defs, assets, forced)
        monitor = JobMonitor(target_name, target, spec.folder)
        monitor.submit(spec, request)
        job = DetachedJob(
            name=spec.name,
            target_name=target_name,
            target=target,
            handle=monitor.handle or "",
            assets=tuple(assets),
            folder=spec.folder,
            profile=self.targets.profile,
            submitted=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        try:
            self._save(job)
        except BaseException:
            monitor.executor.cancel(job.handle)
            raise
        return job

    def all(self) -> list[DetachedJob]:
        """Newest first. Those of other users, whose records only they can read, are left out and logged."""
        files = sorted((self.store.root / DETACHED_JOBS).glob("*.json"), reverse=True)
        return [job for file in files if (job := _read(file)) is not None]

    def find(self, name: str) -> DetachedJob:
        """The job of that name, or the one whose name begins so.

        Raises:
            ComputeError: there is none, or there are several.
        """
        found = [job for job in self.all() if job.name.startswith(name)]
        if len(found) != 1:
            known = ", ".join(job.name for job in self.all()) or "none"
            raise ComputeError(f"{len(found)} batch jobs are called {name!r}; there are: {known}")
        return found[0]

    def open(self) -> Iterator[tuple[DetachedJob, JobState]]:
        """Every job that runs or waits, or has ended since the last call, or is done and not yet picked up, with its
        state now. An end is recorded."""
        for job in self.all():
            if job.status == "submitted":
                yield job, self._ask(job)
            elif job.status == "done":
                yield job, JobState("done")

    def describe(self, job: DetachedJob) -> str:
        """Its status now, as text."""
        if job.status != "submitted":
            return f"{job.status} {job.reason}".strip()
        return str(self._ask(job))

    def mark_taken(self, job: DetachedJob) -> None:
        """Record that a run has picked it up."""
        self._save(replace(job, status="taken"))

    def cancel(self, job: DetachedJob) -> None:
        make_executor(job.target).cancel(job.handle)
        self._save(replace(job, status="cancelled", reason="cancelled by hand"))

    def log(self, job: DetachedJob) -> str:
        """What the job has written so far."""
        return open_host(job.target).read(job.folder.log).decode("utf-8", "replace")

    def _ask(self, job: DetachedJob) -> JobState:
        state = make_executor(job.target).state(job.handle, job.folder)
        if state.status == "failed":
            state = replace(state, reason=why_failed(state, open_host(job.target), job.folder))
        if state.status in ("done", "failed", "cancelled"):
            self._save(replace(job, status=state.status, reason=state.reason))
        return state

    def _prepare(
        self,
        instance: dg.DagsterInstance,
        defs: dg.Definitions,
        assets: Sequence[str],
        forced: Collection[str],
    ) -> tuple[str, ComputeTarget, JobSpec, str]:
        found = self.targets.target_of("")
        if found is None:
            raise ComputeError("a detached job needs a compute target: --batch NAME, with NAME in env.toml")
        target_name, target = found
        made = _without_decisions(assets)
        known = defs.resolve_asset_graph().get_all_asset_keys()
        request = make_request(instance, known, made, self.targets, target, self.store, forced=forced)
        stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S-%f")
        job = make_job(f"batch-{stamp}", target, self.targets, self.store.root, made, detached=True)
        return target_name, target, job, request.dump()

    def _save(self, job: DetachedJob) -> None:
        folder = self.store.root / DETACHED_JOBS
        folder.mkdir(parents=True, exist_ok=True)  # as open to others as the store is; the records are not
        ThisHost().write(folder / f"{job.name}.json", job.dump())


def _read(record: Path) -> DetachedJob | None:
    """The job of a record; None if it is another user's.

    Raises:
        ComputeError: its compute target is not one that is accepted (any more).
    """
    try:
        return DetachedJob.load(record.read_text("utf-8"))
    except PermissionError:
        LOG.warning("%s: another user's job, left out", record)
        return None
    except ValidationError as error:
        wrong = "; ".join(str(each["msg"]) for each in error.errors())
        raise ComputeError(
            f"{record}: its compute target is not accepted: {wrong}. End the job by hand, and delete this file"
        ) from None


def open_detached_jobs(profile: Profile) -> DetachedJobs:
    """The detached jobs of the profile's artifact root."""
    resources = build_resources(profile)
    return DetachedJobs(resources.store.get(), resources.compute.get())


def pick_up_of(job: DetachedJob, instance: dg.DagsterInstance) -> tuple[PickUp, str]:
    """How far the runs are that pick ``job`` up, and the id of the decisive one: any that succeeded, else any that has
    not ended, else the latest that failed or was cancelled."""
    runs = instance.get_runs(dg.RunsFilter(tags={JOB_TAG: job.name}))
    for run in runs:
        if run.is_success:
            return "succeeded", run.run_id
    for run in runs:
        if not run.is_finished:
            return "running", run.run_id
    return ("failed", runs[0].run_id) if runs else ("none", "")


def same_settings(job: DetachedJob, profile: Profile) -> bool:
    """Whether ``profile`` would make what the job was asked to make."""
    irrelevant = {"compute", "automation"}
    try:
        asked = Profile.model_validate_json(job.profile)
    except ValidationError:  # by the rules of another version, such as one that let a key stand in a URL
        return False
    return asked.model_dump(exclude=irrelevant) == profile.model_dump(exclude=irrelevant)


def _without_decisions(assets: Sequence[str]) -> list[str]:
    """Those that a job can make: up to the first asset that is decided here, or if that is the first, all others."""
    first = next((at for at, asset in enumerate(assets) if asset in DECIDED_HERE), len(assets))
    made = list(assets[:first]) if first else [asset for asset in assets if asset not in DECIDED_HERE]
    if not made:
        raise ComputeError(
            f"{', '.join(assets)}: decided and started here, not in a job; run without --batch"
        )
    return made
