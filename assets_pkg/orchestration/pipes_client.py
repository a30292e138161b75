"""A step's build as a job of a compute target, on the side that submits it: the request, the wait, the messages."""

from __future__ import annotations

import json
from collections.abc import Collection, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import dagster as dg
from dagster_pipes import PipesContextData, PipesDefaultContextLoader, PipesParams

from assets_pkg.config.stages import EMBEDDED_BY_WORKERS, TRAINED_ON_NODES
from assets_pkg.orchestration.history import latest_record, visible_to
from assets_pkg.orchestration.names import UNPREFIXED, Names
from assets_pkg.orchestration.run_observer import run_observer
from resources.compute.errors import JobFailed
from resources.compute.host import Host
from resources.compute.job import JobFolder, JobSpec, JobState
from resources.compute.job_monitor import JobMonitor
from resources.compute.pipes_messages import JobMessages
from resources.compute.stage_targets import StageTargets
from resources.compute.targets import ComputeTarget, read_wandb
from storage.artifact_store import ArtifactStore
from storage.paths import JOBS
from storage.progress import Progress
from storage.remote import is_url
from storage.remote_store import CACHE_ENVIRONMENT, cache_folder

WORKER = "assets_pkg.job_worker"
"""The module that runs in a job."""

SCHEMA = 1


@dataclass(frozen=True)
class JobRequest:
    """What a job is to do: materialize ``assets``, given what is known of the others.

    Attributes:
        profile: the settings, as JSON.
        recorded: the materializations of the graph's assets that the run sees, as Dagster serializes them.
        workers: the target, as JSON, if its workers are to embed the corpus together; else empty.
        forced: those of ``assets`` that are built even if they were built before from the same inputs.
        key_prefix: of the graph of the run that waits for the job; in the job's own there is none.
    """

    assets: Sequence[str]
    profile: str
    recorded: Sequence[str]
    workers: str = ""
    forced: Sequence[str] = ()
    key_prefix: Sequence[str] = ()

    def dump(self) -> str:
        payload = {
            "schema_version": SCHEMA,
            "assets": list(self.assets),
            "profile": self.profile,
            "recorded": list(self.recorded),
            "spread": self.workers,
            "forced": list(self.forced),
            "key_prefix": list(self.key_prefix),
        }
        return json.dumps(payload, indent=1)

    @classmethod
    def load(cls, text: str) -> JobRequest:
        payload = json.loads(text)
        if payload["schema_version"] != SCHEMA:
            raise ValueError("this job was written by another version of Retune: submit it again")
        forced = payload.get("forced", ())
        return cls(
            payload["assets"],
            payload["profile"],
            payload["recorded"],
            payload["spread"],
            forced,
            payload.get("key_prefix", ()),
        )


def make_request(
    instance: dg.DagsterInstance,
    known: Iterable[dg.AssetKey],
    assets: Sequence[str],
    targets: StageTargets,
    target: ComputeTarget,
    store: ArtifactStore,
    run_id: str | None = None,
    forced: Collection[str] = (),
    names: Names = UNPREFIXED,
) -> JobRequest:
    """The request to make ``assets`` on ``target``, with what ``instance`` has recorded of the ``known`` assets in
    ``store``, as the run ``run_id`` sees it if it is for one."""
    found = (
        visible_to(instance, run_id, key, store) if run_id else latest_record(instance, key, store)
        for key in known
    )
    recorded = [
        dg.serialize_value(_without_prefix(record.asset_materialization, names))
        for record in found
        if record is not None and record.asset_materialization is not None
    ]
    workers = target.model_dump_json() if is_distributed(assets, target) else ""
    return JobRequest(assets, _profile_for_jobs(targets), recorded, workers, sorted(forced), names.prefix)


def _without_prefix(made: dg.AssetMaterialization, names: Names) -> dg.AssetMaterialization:
    return made._replace(asset_key=UNPREFIXED.key(names.asset(made.asset_key)))


def is_distributed(assets: Iterable[str], target: ComputeTarget) -> bool:
    """Whether the target's workers embed a corpus together in a job that makes ``assets``: only if it makes nothing
    else, for which most of them would wait."""
    return target.embeds_distributed and set(assets) <= EMBEDDED_BY_WORKERS


def _profile_for_jobs(targets: StageTargets) -> str:
    """The settings as a job gets them, as JSON: training reports to the ``[wandb]`` project of ``env.toml``."""
    profile = json.loads(targets.profile)
    project = read_wandb(Path(targets.env_file)).get("project")
    if project and "finetune" in profile and not profile["finetune"]["wandb_project"]:
        profile["finetune"]["wandb_project"] = project
    return json.dumps(profile)


def make_job(
    name: str,
    target: ComputeTarget,
    targets: StageTargets,
    root: Path,
    assets: Collection[str],
    detached: bool = False,
) -> JobSpec:
    """The job ``name`` that makes ``assets``, over the artifacts that this machine has at ``root``."""
    profile = json.loads(targets.profile)
    folder = (target.remote_job_dir or root.absolute() / JOBS) / name
    at_url = is_url(profile.get("artifact_root", ""))
    named = [profile.get("corpus", {}).get("corpus_dir"), profile.get("model", {}).get("base_model")]
    named.append((profile.get("finetune", {}).get("mix") or {}).get("path"))
    local = (Path(text).expanduser().absolute() for text in named if text)
    entity = read_wandb(Path(targets.env_file)).get("entity")
    variables = {"WANDB_ENTITY": entity} if entity else {}
    shared = {root.absolute(), target.remote_job_dir or root.absolute()}
    if at_url and target.executor == "docker":
        # Else what it fetches and makes would be lost with the container.
        variables[CACHE_ENVIRONMENT] = str(cache_folder())
    elif at_url:  # ``root`` is this machine's own copy
        shared = {folder.parent}
    return JobSpec(
        name=name,
        folder=JobFolder(folder),
        module=WORKER,
        cwd=Path.cwd(),
        needs=(*shared, *(path if path.is_dir() else path.parent for path in local if path.exists())),
        variables=variables,
        detached=detached,
        distributed=is_distributed(assets, target),
        nodes=None if TRAINED_ON_NODES.intersection(assets) else 1,
    )


def run_remote(
    context: dg.AssetExecutionContext,
    targets: StageTargets,
    target: tuple[str, ComputeTarget],
    store: ArtifactStore,
    name: str,
    progress: Progress,
) -> dict[str, Mapping[str, Any]]:
    """Make this step's assets in a job on ``target`` (name and description) and wait for it; returns the metadata that
    it reported, by asset.

    A job of the same ``name`` that is still running is waited for instead of being submitted again.

    Raises:
        ComputeError: the target cannot be reached, or the job failed there.
    """
    target_name, described = target
    names = Names.around(context.assets_def.keys)
    assets = [names.asset(key) for key in context.selected_asset_keys]
    job = make_job(name, described, targets, store.root, assets)
    monitor = JobMonitor(target_name, described, job.folder)
    reporter = _Reporter(context, target_name, progress)
    messages = JobMessages(monitor.host, job.folder, reporter.on_custom)
    with (
        monitor.cancelled_by_interrupts(),
        dg.open_pipes_session(
            context=context, context_injector=_JobContext(monitor.host, job.folder), message_reader=messages
        ) as session,
    ):
        if monitor.handle is None:
            known = {*context.assets_def.keys, *context.assets_def.dependency_keys}
            known = {key for key in known if names.has(key)}
            request = make_request(
                context.instance, known, assets, targets, described, store, context.run_id, names=names
            )
            variables = {**job.variables, **session.get_bootstrap_env_vars()}
            monitor.submit(replace(job, variables=variables), request.dump())
            reporter.log(f"submitted as {monitor.handle}; its files lie in {job.folder.path}")
        else:
            reporter.log(f"{monitor.handle} still runs: waiting for it")

        def on_poll(state: JobState) -> None:
            reporter.on_state(state)
            messages.read_new()

        try:
            monitor.wait(on_poll)
        except JobFailed as error:
            messages.read_new()
            raise JobFailed(
                f"{target_name}: {reporter.failure}" if reporter.failure else str(error)
            ) from error
    return {
        names.asset(result.asset_key): dict(result.metadata or {})
        for result in session.get_results()
        if isinstance(result, dg.MaterializeResult) and result.asset_key
    }


class _Reporter:
    """Passes what a job reports on to the run's log and to the observer; ``failure`` is the job's error message."""

    def __init__(self, context: dg.AssetExecutionContext, target_name: str, progress: Progress):
        self.failure = ""
        self._context = context
        self._target_name = target_name
        self._progress = progress
        self._last_state = ""

    def log(self, text: str) -> None:
        self._context.log.info(f"{self._target_name}: {text}")
        run_observer().note(f"{self._target_name}: {text}")

    def on_state(self, state: JobState) -> None:
        if str(state) != self._last_state:
            self._last_state = str(state)
            self.log(self._last_state)

    def on_custom(self, payload: Mapping[str, Any]) -> None:
        if "failure" in payload:
            self.failure = payload["failure"]
        elif "note" in payload:
            run_observer().note(payload["note"])
        else:
            self._progress(payload["done"], payload["total"], payload["unit"], **payload["figures"])


class _JobContext(dg.PipesContextInjector):
    """Writes the Pipes context into the job's folder."""

    def __init__(self, host: Host, folder: JobFolder):
        self._host = host
        self._path = folder.context

    @contextmanager
    def inject_context(self, context_data: PipesContextData) -> Generator[PipesParams]:
        self._host.write(self._path, json.dumps(context_data))
        yield {PipesDefaultContextLoader.FILE_PATH_KEY: str(self._path)}

    def no_messages_debug_text(self) -> str:
        return f"The context was written to {self._path}."
