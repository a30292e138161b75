"""The sensors that follow the model, the corpus, the server and detached jobs."""

import json
import math
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any, TypeVar

import dagster as dg

from assets_pkg.automation.detached_jobs import (
    DetachedJob,
    PickUp,
    open_detached_jobs,
    pick_up_of,
    same_settings,
)
from assets_pkg.automation.jobs import CORPUS_JOB, DEPLOY_JOB, JOBS, REINDEX_JOB
from assets_pkg.config.profile import Profile
from assets_pkg.corpus.assets import SOURCE_FINGERPRINT
from assets_pkg.corpus.sources import CorpusError, seconds_since_change, source_fingerprint
from assets_pkg.deploy.assets import ALIVE
from assets_pkg.deploy.deploy import read_state, settings_problem
from assets_pkg.deploy.server_state import DeployError
from assets_pkg.orchestration.history import (
    SETTINGS_KEY,
    changed_settings,
    data_version,
    input_version,
    is_in,
    is_made_from,
    latest,
    latest_record,
)
from assets_pkg.orchestration.instance import PROCESS_TAG
from assets_pkg.orchestration.names import UNPREFIXED, Names
from assets_pkg.reindex.assets import IN_STEP, reindex_deps
from assets_pkg.reindex.searched_index import SearchError, current_index, disagreements
from resources.compute.errors import ComputeError
from resources.compute.job import JobState
from resources.configurable import AlertsResource
from resources.vector_store.base import VectorStoreError
from storage.artifact_store import ArtifactError, ArtifactStore
from storage.paths import CACHE, STATE_FOLDER
from storage.remote_store import open_store

F = TypeVar("F", bound=Callable[..., Any])

SERVER = "running_nim"
DECIDE_THE_INDEX = ("base_model", "raw_corpus", "passages", "corpus_embeddings", "vector_index")
"""What is never rebuilt with other settings than it was made with, unless a person does it."""

NOT_DONE: tuple[PickUp, str] = ("none", "")


def build_sensors(
    profile: Profile,
    assets: Collection[dg.AssetKey],
    names: Names = UNPREFIXED,
    corpus_asset: dg.AssetKey | None = None,
) -> list[dg.SensorDefinition]:
    """All sensors are on unless switched off.

    Args:
        assets: all of the graph.
        corpus_asset: of the user's own, which names the documents, if they come from one.
    """
    return [
        _reindex_sensor(profile, names),
        _deploy_sensor(profile, names),
        _corpus_sensor(profile, names)
        if corpus_asset is None
        else _corpus_asset_sensor(profile, names, corpus_asset),
        _server_sensor(profile, names),
        _index_sensor(profile, names),
        _detached_job_sensor(profile, assets, names),
        _failure_sensor(assets, names),
    ]


def _reindex_sensor(profile: Profile, names: Names) -> dg.SensorDefinition:
    followed = reindex_deps(profile.reindex)

    @dg.sensor(
        name=names.of("reindex_when_model_or_corpus_changes"),
        job_name=names.of(REINDEX_JOB),
        description="Rebuilds the index when the promoted model or the passages changed, once for each change. A "
        "failed run is retried once; after that the index stays stale.",
        minimum_interval_seconds=profile.automation.reindex_sensor_seconds,
        default_status=dg.DefaultSensorStatus.RUNNING,
    )
    def reindex_when_model_or_corpus_changes(
        context: dg.SensorEvaluationContext,
    ) -> dg.RunRequest | dg.SkipReason:
        records = [latest_record(context.instance, names.key(asset)) for asset in followed]
        events = [record.storage_id for record in records if record is not None]
        if len(events) < len(followed):
            return dg.SkipReason("no promoted model, no passages, or no server that embeds them yet")
        if others := _made_with_other_settings(context, profile, names):
            return dg.SkipReason(others)
        if SERVER in followed and not _serves_promoted(context.instance, names):
            return dg.SkipReason(
                "the server does not serve the promoted model yet: materialize "
                f"{names.key(SERVER).to_user_string()}, or run `retune deploy`"
            )
        # Event ids, not versions: a rollback to an older model is a new event and must re-index again.
        return dg.RunRequest(run_key="-".join(["reindex", *map(str, events)]), stale_assets_only=True)

    return reindex_when_model_or_corpus_changes


def _deploy_sensor(profile: Profile, names: Names) -> dg.SensorDefinition:
    @dg.sensor(
        name=names.of("deploy_when_model_changes"),
        job_name=names.of(DEPLOY_JOB),
        description="Replaces a running embedding server when another model is promoted, after the index of that model "
        "is there: searches go on with the old index until then. A server that was stopped is not started.",
        minimum_interval_seconds=profile.automation.reindex_sensor_seconds,
        default_status=dg.DefaultSensorStatus.RUNNING,
    )
    def deploy_when_model_changes(context: dg.SensorEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        store = open_store(profile.artifact_root)
        record, server = (
            latest_record(context.instance, names.key("promoted_model")),
            read_state(store.root / STATE_FOLDER),
        )
        made = record.asset_materialization if record else None
        if server is None or not server.alive():
            return dg.SkipReason("no deployed server is running")
        if record is None or made is None or server.model_digest == data_version(made):
            return dg.SkipReason("the server serves the promoted model")
        if others := _made_with_other_settings(context, profile, names) or settings_problem(
            server, profile.deploy
        ):
            return dg.SkipReason(f"the server is not replaced: {others}")
        if profile.reindex.encoder != "nim" and not _is_current(store, data_version(made)):
            return dg.SkipReason("waits for the index of the promoted model")
        return dg.RunRequest(run_key=f"deploy-{record.storage_id}", stale_assets_only=True)

    return deploy_when_model_changes


def _is_current(store: ArtifactStore, model: str) -> bool:
    """Whether the current index was built by this model."""
    try:
        return current_index(store).describe()["model_digest"] == model
    except (SearchError, ArtifactError):
        return False


def _made_with_other_settings(context: dg.SensorEvaluationContext, profile: Profile, names: Names) -> str:
    """Why nothing may be rebuilt by itself: a person worked on this history with other settings than these, or in
    another artifact root. Empty if not."""
    assert context.repository_def is not None
    store = open_store(profile.artifact_root)
    for asset in DECIDE_THE_INDEX:
        made = latest(context.instance, names.key(asset))
        if made is not None and not is_in(store, made):
            return (
                f"{asset} was last made in another artifact root than {store.location}, or is gone from there: nothing "
                "is rebuilt before a person materializes it again"
            )
        now = context.repository_def.asset_graph.get(names.key(asset)).metadata.get(SETTINGS_KEY, {})
        if changed := changed_settings(made, now):
            return (
                f"{asset} was made with other settings ({', '.join(changed)}): nothing is rebuilt before a person "
                "materializes it with the current ones, or starts the UI with those it was made with"
            )
    return ""


def _corpus_sensor(profile: Profile, names: Names) -> dg.SensorDefinition:
    @dg.sensor(
        name=names.of("corpus_when_documents_change"),
        job_name=names.of(CORPUS_JOB),
        description=f"Reads the corpus again when its files differ from those that were last read and have not changed "
        f"for {profile.automation.corpus_quiet_seconds:g} seconds.",
        minimum_interval_seconds=profile.automation.corpus_sensor_seconds,
        default_status=dg.DefaultSensorStatus.RUNNING,
    )
    def corpus_when_documents_change(context: dg.SensorEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        record = latest_record(context.instance, names.key("raw_corpus"))
        read = record.asset_materialization if record else None
        if record is None or read is None:
            return dg.SkipReason("the corpus was never read: run the main job first")
        if others := _made_with_other_settings(context, profile, names):
            return dg.SkipReason(others)
        try:
            quiet = seconds_since_change(profile.corpus)
            cache = open_store(profile.artifact_root).root / CACHE
            now = source_fingerprint(profile.corpus, cache)
        except CorpusError as error:
            return dg.SkipReason(f"the corpus cannot be read now: {error}")
        if now == read.metadata[SOURCE_FINGERPRINT].value:
            return dg.SkipReason("no document changed")
        wanted = profile.automation.corpus_quiet_seconds
        if quiet < wanted:
            return dg.SkipReason(
                f"documents changed {quiet:.0f} s ago: waiting for {wanted:g} s without changes"
            )
        return dg.RunRequest(run_key=f"corpus-{now}-{record.storage_id}")

    return corpus_when_documents_change


def _corpus_asset_sensor(profile: Profile, names: Names, corpus_asset: dg.AssetKey) -> dg.SensorDefinition:
    @dg.sensor(
        name=names.of("corpus_when_documents_change"),
        job_name=names.of(CORPUS_JOB),
        description=f"Reads the corpus again when {corpus_asset.to_user_string()} has made another version than the "
        "one that was last read.",
        minimum_interval_seconds=profile.automation.corpus_sensor_seconds,
        default_status=dg.DefaultSensorStatus.RUNNING,
    )
    def corpus_when_documents_change(context: dg.SensorEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        read = latest(context.instance, names.key("raw_corpus"))
        made = latest_record(context.instance, corpus_asset)
        if read is None or made is None:
            return dg.SkipReason("the corpus was never read: run the main job first")
        if others := _made_with_other_settings(context, profile, names):
            return dg.SkipReason(others)
        if is_made_from(read, corpus_asset, made):
            return dg.SkipReason(f"{corpus_asset.to_user_string()} has made no other version")
        return dg.RunRequest(run_key=f"corpus-{made.storage_id}")

    return corpus_when_documents_change


def _server_sensor(profile: Profile, names: Names) -> dg.SensorDefinition:
    @dg.sensor(
        name=names.of("server_watch"),
        description="Checks whether the embedding server runs (the check server_is_alive of running_nim), and raises "
        "an alert when it has stopped.",
        minimum_interval_seconds=profile.automation.server_sensor_seconds,
        default_status=dg.DefaultSensorStatus.RUNNING,
    )
    @takes_alerts(names)
    def server_watch(
        context: dg.SensorEvaluationContext, alerts: AlertsResource
    ) -> dg.SensorResult | dg.SkipReason:
        state = read_state(open_store(profile.artifact_root).root / STATE_FOLDER)
        if state is None:
            return dg.SkipReason("no server was deployed")
        alive = state.alive()
        status = f"{state.handle}:{alive}"
        if context.cursor == status:
            return dg.SkipReason("unchanged")
        if not alive:
            alerts.send("server_died", f"the embedding server at {state.url} is gone; its log: {state.log}")
        evaluation = dg.AssetCheckEvaluation(
            asset_key=names.key(SERVER),
            check_name=ALIVE.name,
            passed=alive,
            metadata={"url": state.url, "server": state.handle, "log": dg.MetadataValue.path(state.log)},
        )
        return dg.SensorResult(asset_events=[evaluation], cursor=status)

    return server_watch


def _index_sensor(profile: Profile, names: Names) -> dg.SensorDefinition:
    followed = reindex_deps(profile.reindex)
    max_lag = profile.automation.index_may_lag_minutes * 60

    @dg.sensor(
        name=names.of("index_watch"),
        description="Fails the check index_is_in_step of vector_index, and raises an alert, when the index has been "
        "behind the promoted model or the passages, or the embedding server or the alias of a Milvus server of another "
        f"model than the index, for {profile.automation.index_may_lag_minutes:g} minutes.",
        minimum_interval_seconds=profile.automation.reindex_sensor_seconds,
        default_status=dg.DefaultSensorStatus.RUNNING,
    )
    @takes_alerts(names)
    def index_watch(
        context: dg.SensorEvaluationContext, alerts: AlertsResource
    ) -> dg.SensorResult | dg.SkipReason:
        if latest(context.instance, names.key("vector_index")) is None:
            return dg.SkipReason("nothing is indexed yet")
        before: dict[str, Any] = json.loads(context.cursor or "{}")
        behind = behind_since(context.instance, followed, names)
        problems = [f"the index is behind {asset}" for asset in behind] + _disagreements(profile)
        now = time.time()  # the clock may have been set back since the change, or since the last tick
        since = min([*behind.values(), before.get("since") or math.inf, now]) if problems else None
        late = since is not None and now - since >= max_lag
        cursor = json.dumps({"since": since, "late": late})
        if context.cursor == cursor:
            return dg.SkipReason("; ".join(problems) or "the index is in step")
        was_late = before.get("late", False)
        message = f"for more than {max_lag / 60:g} minutes, {' and '.join(problems)}"
        if late and not was_late:
            alerts.send(
                "index_behind",
                f"{message}: look at the runs of the jobs {names.of(REINDEX_JOB)} and {names.of(DEPLOY_JOB)}",
            )
        evaluation = dg.AssetCheckEvaluation(
            asset_key=names.key("vector_index"),
            check_name=IN_STEP.name,
            passed=not late,
            metadata={"status": message if late else "in step"},
        )
        return dg.SensorResult(asset_events=[evaluation] if late != was_late else [], cursor=cursor)

    return index_watch


def _disagreements(profile: Profile) -> list[str]:
    try:
        return disagreements(open_store(profile.artifact_root))
    except (SearchError, ArtifactError, DeployError) as error:
        return [str(error)]
    except VectorStoreError as error:
        return [f"the index cannot be looked at: {error}"]


def behind_since(
    instance: dg.DagsterInstance, followed: Sequence[str], names: Names = UNPREFIXED
) -> dict[str, float]:
    """Which of the index's inputs changed since it was made, and when (seconds since the epoch)."""
    index = latest(instance, names.key("vector_index"))
    found: dict[str, float] = {}
    for asset in followed:
        key = names.key(asset)
        record = latest_record(instance, key)
        now = record.asset_materialization if record else None
        used = input_version(index, key) if index else None
        if record is not None and now is not None and used != data_version(now):
            found[asset] = record.timestamp
    return found


def _detached_job_sensor(
    profile: Profile, assets: Collection[dg.AssetKey], names: Names
) -> dg.SensorDefinition:
    @dg.sensor(
        name=names.of("pick_up_batch_jobs"),
        description="Materializes what a detached job has made once it has ended; until then shows the job's state.",
        asset_selection=dg.AssetSelection.assets(*assets),
        minimum_interval_seconds=profile.automation.batch_sensor_seconds,
        default_status=dg.DefaultSensorStatus.RUNNING,
    )
    @takes_alerts(names)
    def pick_up_batch_jobs(
        context: dg.SensorEvaluationContext, alerts: AlertsResource
    ) -> dg.SensorResult | dg.SkipReason:
        detached = open_detached_jobs(profile)
        states: list[str] = []
        requests: list[dg.RunRequest] = []
        here = {names.asset(key) for key in assets}
        try:
            for job, state in detached.open():
                if state.status in ("failed", "cancelled"):
                    alerts.send("batch_job_failed", f"{job.name} on {job.target_name}: {state.reason}")
                picked_up, run = pick_up_of(job, context.instance) if state.status == "done" else NOT_DONE
                if picked_up == "succeeded":
                    detached.mark_taken(job)
                known = _takes(job, profile, here)
                if picked_up == "none" and state.status == "done" and known:
                    requests.append(_pick_up_request(job, names))
                states.append(f"{job.name}: {_describe(state, picked_up, run, known=known)}")
        except ComputeError as error:
            states.append(str(error))
        if requests:
            return dg.SensorResult(run_requests=requests)
        return dg.SkipReason("; ".join(states) or "no detached job")

    return pick_up_batch_jobs


def _pick_up_request(job: DetachedJob, names: Names) -> dg.RunRequest:
    # Dagster launches one run for each run key: the job is not requested again before its run is in the history.
    return dg.RunRequest(
        run_key=job.name,
        asset_selection=[names.key(asset) for asset in job.assets],
        tags={**job.tags, "retune/compute_target": job.target_name},
    )


def _takes(job: DetachedJob, profile: Profile, here: Collection[str]) -> bool:
    """Whether this code location makes what the job made: of the same settings, and none of a benchmark that is not in
    the graph."""
    return same_settings(job, profile) and set(job.assets) <= set(here)


def _describe(state: JobState, picked_up: PickUp, run: str, *, known: bool) -> str:
    """The job's state and, once it is done, that of its pick-up, for people."""
    if picked_up == "succeeded":
        return f"picked up by run {run}"
    if picked_up == "running":
        return f"{state}, being picked up by run {run}"
    if picked_up == "failed":
        return f"{state}, but run {run}, which was to pick it up, failed: re-execute it, or `retune jobs pick-up`"
    if state.status == "done" and not known:
        return f"{state}, but with other settings than the UI's: `retune jobs pick-up` takes it"
    return str(state)


def _failure_sensor(assets: Collection[dg.AssetKey], names: Names) -> dg.SensorDefinition:
    own, jobs = frozenset(assets), {names.of(job) for job in JOBS}

    @dg.run_failure_sensor(
        name=names.of("alert_when_a_run_fails"),
        description="Raises an alert for each failed run that was not started by the command: in the log, and to "
        "RETUNE_ALERT_WEBHOOK where that is set.",
        default_status=dg.DefaultSensorStatus.RUNNING,
    )
    @takes_alerts(names)
    def alert_when_a_run_fails(context: dg.RunFailureSensorContext, alerts: AlertsResource) -> None:
        run = context.dagster_run
        if PROCESS_TAG in run.tags:
            return  # of the command: whoever started it sees it
        if not _makes_any(run, own, jobs):
            return  # of other assets in the same code location
        alerts.send("run_failed", f"{run.job_name} {run.run_id}: {context.failure_event.message}")

    return alert_when_a_run_fails


def _makes_any(run: dg.DagsterRun, own: Collection[dg.AssetKey], jobs: Collection[str]) -> bool:
    """Whether a run makes or checks any of the assets ``own``, or is one of ``jobs``."""
    checked = {check.asset_key for check in run.asset_check_selection or ()}
    return run.job_name in jobs or any(key in own for key in {*(run.asset_selection or ()), *checked})


def takes_alerts(names: Names) -> Callable[[F], F]:
    """For the function of a sensor that takes the resource ``alerts``: it takes the one of its graph."""
    return lambda function: names.taking(function, ("alerts",))


def _serves_promoted(instance: dg.DagsterInstance, names: Names) -> bool:
    """Whether the last deployment was of the model that is promoted now."""
    served, promoted = (latest(instance, names.key(asset)) for asset in (SERVER, "promoted_model"))
    return bool(served and promoted and served.metadata["model_digest"].value == data_version(promoted))
