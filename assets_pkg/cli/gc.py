"""``retune gc`` and ``retune forget``: what deletes old versions, ended jobs and kept answers."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from assets_pkg.cli.common import ConfigOption, DryRunOption, Overrides, console, load_settings, plain

if TYPE_CHECKING:
    import dagster as dg

    from assets_pkg.automation.retention import Removal
    from assets_pkg.config.profile import Profile
    from storage.artifact_store import ArtifactStore


def gc(
    keep: Annotated[int, typer.Option("--keep", min=1, help="How many versions of each asset to keep.")] = 3,
    dry_run: DryRunOption = False,
    config: ConfigOption = "",
    overrides: Overrides = None,
) -> None:
    """Delete old versions, unfinished builds that a newer version replaced, what damage and kills left beside them, and
    ended jobs. Versions that are linked, current, promoted or served are never deleted, nor are jobs that have not
    ended."""
    from assets_pkg.automation.retention import find_leftovers, find_removals
    from storage.remote_store import open_store

    profile = load_settings(config, overrides)
    store = open_store(profile.artifact_root)
    with _deletion(store, dry_run) as instance:
        _delete(store, find_removals(store, instance, keep), dry_run)
        _delete_files(store, find_leftovers(store), dry_run)
        _delete_jobs(profile, keep, dry_run)


def forget(
    document: Annotated[str, typer.Argument(help="The document's path inside the corpus.")],
    dry_run: DryRunOption = False,
    config: ConfigOption = "",
    overrides: Overrides = None,
) -> None:
    """Delete every old version, cached vector, kept answer and ended job that may hold text of a document removed from
    the corpus, and say what is kept."""
    from assets_pkg.automation.forgetting import forget_kept_text, forget_vectors, kept_after
    from assets_pkg.automation.retention import find_damaged, find_half_removed, find_holders
    from storage.remote_store import open_store

    profile = load_settings(config, overrides)
    store = open_store(profile.artifact_root)
    with _deletion(store, dry_run) as instance:
        # A kill while the last version that names the document was deleted must not leave its text.
        if half_removed := list(find_half_removed(store)):
            _delete(store, iter(half_removed), dry_run)
        holders = list(find_holders(store, instance, document))
        kept = list(kept_after(store, holders))
        if not dry_run:
            # The versions that tell what else there is of the document go last: the command can be repeated after a
            # kill.
            _delete_answers(store.root)
            forget_kept_text(store)
            console.print(
                "all kept answers of chat models are deleted: they are kept without the names of documents"
            )
            vectors = forget_vectors(store, holders, document)
            console.print(f"{vectors} cached vectors of its texts are deleted")
        _delete_files(store, find_damaged(store), dry_run)  # a damaged cache may hold vectors of its texts
        _delete_jobs(profile, 0, dry_run)
        _delete(store, reversed(holders), dry_run)
    for what in kept:
        console.print(f"kept: {plain(what)}", highlight=False)


@contextmanager
def _deletion(store: ArtifactStore, dry_run: bool) -> Generator[dg.DagsterInstance]:
    """The history of runs, while no run is going on; the steps of one that starts meanwhile wait."""
    from assets_pkg.orchestration.instance import open_instance, require_no_run

    if not dry_run:
        store.check()
    with nullcontext() if dry_run else store.deletion(), open_instance() as instance:
        if not dry_run:
            require_no_run(instance)
        yield instance


def _delete(store: ArtifactStore, found: Iterator[Removal], dry_run: bool) -> None:
    """Delete the removals; all are found before the first is deleted, so that an error in the search deletes none."""
    from assets_pkg.automation.retention import remove

    removals = list(found)
    for removal in removals:
        what = f"{removal.asset} {removal.version}{' (unfinished)' if removal.unfinished else ''}"
        console.print(f"{what}  {removal.size / 1e6:.1f} MB", highlight=False)
        if not dry_run:
            remove(store, removal)
    total = sum(removal.size for removal in removals) / 1e6
    console.print(f"{len(removals)} versions, {total:.1f} MB {'would be deleted' if dry_run else 'deleted'}")


def _delete_files(store: ArtifactStore, found: Iterator[Path], dry_run: bool) -> None:
    """Delete files that damage and kills left; says nothing where there are none."""
    for path in list(found):
        size = path.lstat().st_size / 1e6
        console.print(
            f"left over: {plain(path.relative_to(store.root).as_posix())}  {size:.1f} MB", highlight=False
        )
        if not dry_run:
            path.unlink(missing_ok=True)


def _delete_answers(root: Path) -> None:
    """Delete every kept answer: its key is a digest of the request, so the document that it is about is unknown."""
    from storage.paths import ANSWER_CACHE, FORMER_CAPTION_ANSWERS

    for cache in (ANSWER_CACHE, FORMER_CAPTION_ANSWERS):
        for path in root.glob(f"{cache}*"):  # SQLite's -wal and -shm files too
            path.unlink()


def _delete_jobs(profile: Profile, keep: int, dry_run: bool) -> None:
    from assets_pkg.automation.detached_jobs import open_detached_jobs
    from assets_pkg.automation.job_cleanup import find_ended_jobs, remove_job

    old = list(find_ended_jobs(open_detached_jobs(profile), keep))
    for job in old:
        console.print(f"job {plain(job.name)}  {job.size / 1e6:.1f} MB", highlight=False)
        if not dry_run:
            remove_job(job)
    total = sum(job.size for job in old) / 1e6
    console.print(f"{len(old)} ended jobs, {total:.1f} MB {'would be deleted' if dry_run else 'deleted'}")
