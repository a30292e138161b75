"""What jobs leave below the artifact root, and which of it may be deleted: nothing of a job that is still open."""

from __future__ import annotations

import shutil
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from assets_pkg.automation.detached_jobs import DetachedJobs
from resources.compute.errors import ComputeError
from resources.compute.job import JobFolder
from resources.compute.job_monitor import JobMonitor, Submission
from storage.disk import bytes_below
from storage.paths import DETACHED_JOBS, JOBS

CLOSED = ("taken", "failed", "cancelled")
"""Statuses of a detached job whose work will not be picked up any more."""


@dataclass(frozen=True)
class EndedJob:
    """One ended job: its folder and, of a detached one, its record; either may be missing. ``size`` in bytes."""

    name: str
    folder: Path
    record: Path
    size: int


def find_ended_jobs(detached: DetachedJobs, keep: int) -> Iterator[EndedJob]:
    """Ended jobs beyond the newest ``keep`` of each asset, and of the detached ones.

    Not ended is a job that runs or waits, that was not picked up yet, that was written but not submitted, whose
    compute target does not answer, or that is another user's.
    """
    jobs = detached.store.root / JOBS
    statuses = {job.name: job.status for job in detached.all()}
    made_for: dict[str, list[str]] = defaultdict(list)
    for name in {*statuses, *(path.name for path in jobs.glob("*-*"))}:
        made_for[name.partition("-")[0]].append(name)
    for names in made_for.values():
        names.sort(key=lambda name: _changed(detached.store.root, name), reverse=True)
        ended = (name for name in names if _has_ended(detached, JobFolder(jobs / name), statuses.get(name)))
        for name in list(ended)[keep:]:
            folder, record = jobs / name, detached.store.root / DETACHED_JOBS / f"{name}.json"
            yield EndedJob(name, folder, record, bytes_below(folder) + bytes_below(record))


def remove_job(job: EndedJob) -> None:
    """Delete what the job left on this machine."""
    if job.folder.exists():
        shutil.rmtree(job.folder)
    job.record.unlink(missing_ok=True)


def _has_ended(detached: DetachedJobs, folder: JobFolder, status: str | None) -> bool:
    if status is not None:
        return status in CLOSED
    try:
        if folder.has_ended():
            return True
        if not folder.submission.exists():
            return False
        target_name = Submission.load(folder.submission.read_text("utf-8")).target
        return JobMonitor(target_name, detached.targets.read(target_name), folder).handle is None
    except (ComputeError, PermissionError):  # its target does not answer, or it is another user's
        return False


def _changed(root: Path, name: str) -> float:
    """When the job's files were last written, in seconds since the epoch."""
    paths = [root / DETACHED_JOBS / f"{name}.json", *(root / JOBS / name).glob("*")]
    return max((path.stat().st_mtime for path in paths if path.exists()), default=0.0)
