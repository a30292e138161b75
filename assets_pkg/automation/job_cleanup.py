"""What jobs leave below the artifact root, and which of it may go: never what belongs to a job that is still open."""

from __future__ import annotations

import json
import shutil
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from assets_pkg.automation.detached_jobs import DetachedJobs
from resources.compute.errors import ComputeError
from resources.compute.job import JobSpec
from resources.compute.job_monitor import JobMonitor, Submitted
from resources.compute.targets import read_target
from storage.disk import bytes_below
from storage.paths import DETACHED_JOBS, JOBS

ENDED = ("taken", "failed", "cancelled")
"""Standings of a detached job that nobody waits for any more."""


@dataclass(frozen=True)
class OldJob:
    """One ended job: its folder and, of a detached one, its record; of either, what is there. ``size`` in bytes."""

    name: str
    folder: Path
    record: Path
    size: int


def find_old_jobs(batches: DetachedJobs, keep: int) -> Iterator[OldJob]:
    """Ended jobs beyond the newest ``keep`` of each asset, and of the detached ones.

    Open is a job that runs or waits, whose work nobody has picked up, that was written but not submitted, or whose
    place cannot be asked.
    """
    jobs = batches.root / JOBS
    standings = {batch.name: batch.standing for batch in batches.all()}
    made_for: dict[str, list[str]] = defaultdict(list)
    for name in {*standings, *(path.name for path in jobs.glob("*-*"))}:
        made_for[name.partition("-")[0]].append(name)
    for names in made_for.values():
        names.sort(key=lambda name: _changed(batches.root, name), reverse=True)
        ended = (name for name in names if _is_over(batches, jobs / name, standings.get(name)))
        for name in list(ended)[keep:]:
            folder, record = jobs / name, batches.root / DETACHED_JOBS / f"{name}.json"
            yield OldJob(name, folder, record, bytes_below(folder) + bytes_below(record))


def remove_job(job: OldJob) -> None:
    """Delete what the job left here."""
    if job.folder.exists():
        shutil.rmtree(job.folder)
    job.record.unlink(missing_ok=True)


def _is_over(batches: DetachedJobs, folder: Path, standing: str | None) -> bool:
    if standing is not None:
        return standing in ENDED
    job = JobSpec(folder.name, folder, Path.cwd(), ())
    if job.exit_code.exists() and job.exit_code.stat().st_size > 0:
        return True
    record = folder / "submitted.json"
    if not record.exists():
        return False
    place = Submitted(**json.loads(record.read_text("utf-8"))).place
    try:
        environment = read_target(Path(batches.compute.env_file), place, batches.compute.overrides)
        return JobMonitor(place, environment, job).handle is None
    except ComputeError:
        return False


def _changed(root: Path, name: str) -> float:
    """When the job's files were last written, in seconds since the epoch."""
    paths = [root / DETACHED_JOBS / f"{name}.json", *(root / JOBS / name).glob("*")]
    return max((path.stat().st_mtime for path in paths if path.exists()), default=0.0)
