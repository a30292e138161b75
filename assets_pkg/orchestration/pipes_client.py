"""An asset's build as a job of another place, from this side: what is handed over, and what comes back."""

from __future__ import annotations

import json
from collections.abc import Collection, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import dagster as dg
from dagster_pipes import PipesContextData, PipesDefaultContextLoader, PipesParams

from assets_pkg.orchestration.run_observer import run_observer
from resources.compute.errors import JobFailed
from resources.compute.host import Host
from resources.compute.job import JobSpec, State
from resources.compute.job_monitor import JobMonitor
from resources.compute.pipes_messages import JobMessages
from resources.compute.targets import ComputeTarget, read_wandb
from resources.configurable import ComputeResource
from storage.paths import JOBS
from storage.progress import Progress
from storage.remote import is_url
from storage.remote_store import CACHE_ENVIRONMENT, cache_folder

SCHEMA = 1
TRAINED = "checkpoint"
"""The asset that several nodes make together."""

WORKERS_SHARE = {"mined_train_set", "corpus_embeddings", "vector_index"}
"""Assets whose corpus several workers embed together, and what is made of it in the same step."""


@dataclass(frozen=True)
class Work:
    """What a job is to do: make ``assets`` of a project whose other assets stand as ``recorded``.

    ``profile`` is JSON; ``recorded`` are Dagster's serialized materializations; ``spread`` describes the place,
    as JSON, if its workers are to embed the corpus together.
    """

    assets: Sequence[str]
    profile: str
    recorded: Sequence[str]
    spread: str = ""

    def dump(self) -> str:
        return json.dumps({"schema_version": SCHEMA, **vars(self)}, indent=1)

    @classmethod
    def load(cls, text: str) -> Work:
        told = json.loads(text)
        if told.pop("schema_version") != SCHEMA:
            raise ValueError("this job was written by another version of Retune: submit it again")
        return cls(**told)


def describe_work(
    instance: dg.DagsterInstance,
    known: Iterable[dg.AssetKey],
    assets: Sequence[str],
    profile: str,
    environment: ComputeTarget,
) -> Work:
    """The work of making ``assets`` in ``environment``, given what ``instance`` has recorded of the ``known`` ones."""
    events = (instance.get_latest_materialization_event(key) for key in known)
    found = [event.asset_materialization for event in events if event and event.asset_materialization]
    spread = environment.model_dump_json() if spreads(assets, environment) else ""
    return Work(assets, profile, [dg.serialize_value(each) for each in found], spread)


def spreads(assets: Iterable[str], environment: ComputeTarget) -> bool:
    """Whether a job that makes ``assets`` is one for several workers, and nothing that most of them would wait for."""
    return environment.workers_share and set(assets) <= WORKERS_SHARE


def profile_for_jobs(compute: ComputeResource) -> str:
    """The settings as a job gets them, as JSON: training reports to the ``[wandb]`` project of the places' file."""
    profile = json.loads(compute.profile)
    project = read_wandb(Path(compute.env_file)).get("project")
    if project and "finetune" in profile and not profile["finetune"]["wandb_project"]:
        profile["finetune"]["wandb_project"] = project
    return json.dumps(profile)


def make_job(
    name: str,
    environment: ComputeTarget,
    compute: ComputeResource,
    root: Path,
    assets: Collection[str],
    detached: bool = False,
) -> JobSpec:
    """The job ``name`` that makes ``assets``, over the artifacts that this machine has at ``root``."""
    profile = json.loads(compute.profile)
    folder = (environment.remote_job_dir or root.absolute() / JOBS) / name
    at_url = is_url(profile.get("artifact_root", ""))
    given = [profile.get("corpus", {}).get("corpus_dir"), profile.get("model", {}).get("base_model")]
    local = (Path(text).expanduser().absolute() for text in given if text)
    entity = read_wandb(Path(compute.env_file)).get("entity")
    variables = {"WANDB_ENTITY": entity} if entity else {}
    shared = {root.absolute(), environment.remote_job_dir or root.absolute()}
    if at_url and environment.executor == "docker":
        # Else what it fetches and makes would end with the container.
        variables[CACHE_ENVIRONMENT] = str(cache_folder())
    elif at_url:  # what lies at ``root`` is this machine's own
        shared = {folder.parent}
    return JobSpec(
        name=name,
        folder=folder,
        cwd=Path.cwd(),
        needs=(*shared, *(path for path in local if path.is_dir())),
        variables=variables,
        detached=detached,
        spread=spreads(assets, environment),
        nodes=None if TRAINED in assets else 1,
    )


def run_remote(
    context: dg.AssetExecutionContext,
    compute: ComputeResource,
    place: tuple[str, ComputeTarget],
    root: Path,
    name: str,
    progress: Progress,
) -> dict[str, Mapping[str, Any]]:
    """Make this step's assets in a job at ``place`` and wait for it; returns the metadata that it reported, by
    asset.

    A job of the same ``name`` that still runs is waited for instead of being submitted again.

    Raises:
        ComputeError: the place cannot be reached, or the job failed there.
    """
    where, environment = place
    assets = [key.to_user_string() for key in context.selected_asset_keys]
    plain = make_job(name, environment, compute, root, assets)
    attendance = JobMonitor(where, environment, plain)
    told = _Told(context, where, progress)
    messages = JobMessages(attendance.host, plain, told.custom)
    with (
        attendance.ended_by_interrupts(),
        dg.open_pipes_session(
            context=context, context_injector=_JobContext(attendance.host, plain), message_reader=messages
        ) as session,
    ):
        if attendance.handle is None:
            known = {*context.assets_def.keys, *context.assets_def.dependency_keys}
            work = describe_work(context.instance, known, assets, profile_for_jobs(compute), environment)
            variables = {**plain.variables, **session.get_bootstrap_env_vars()}
            attendance.submit(replace(plain, variables=variables), work.dump())
            told.line(f"submitted as {attendance.handle}; its files lie in {plain.folder}")
        else:
            told.line(f"{attendance.handle} still runs: waiting for it")

        def meanwhile(state: State) -> None:
            told.state(state)
            messages.pump()

        try:
            attendance.wait(meanwhile)
        except JobFailed as error:
            messages.pump()
            raise JobFailed(f"{where}: {told.failure}" if told.failure else str(error)) from error
    return {
        result.asset_key.to_user_string(): dict(result.metadata or {})
        for result in session.get_results()
        if isinstance(result, dg.MaterializeResult) and result.asset_key
    }


class _Told:
    """What comes from the job, to the run's log and to whoever watches."""

    def __init__(self, context: dg.AssetExecutionContext, where: str, progress: Progress):
        self.failure = ""
        self._context = context
        self._where = where
        self._progress = progress
        self._last = ""

    def line(self, text: str) -> None:
        self._context.log.info(f"{self._where}: {text}")
        run_observer().note(f"{self._where}: {text}")

    def state(self, state: State) -> None:
        said = str(state)
        if said != self._last:
            self._last = said
            self.line(said)

    def custom(self, payload: Mapping[str, Any]) -> None:
        if "failure" in payload:
            self.failure = payload["failure"]
        elif "note" in payload:
            run_observer().note(payload["note"])
        else:
            self._progress(payload["done"], payload["total"], payload["unit"], **payload["figures"])


class _JobContext(dg.PipesContextInjector):
    """Leaves the context in the job's folder."""

    def __init__(self, host: Host, job: JobSpec):
        self._host = host
        self._job = job

    @contextmanager
    def inject_context(self, context_data: PipesContextData) -> Generator[PipesParams]:
        self._host.write(self._job.context, json.dumps(context_data))
        yield {PipesDefaultContextLoader.FILE_PATH_KEY: str(self._job.context)}

    def no_messages_debug_text(self) -> str:
        return f"The context was left in {self._job.context}."
