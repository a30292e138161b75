"""The sensors that follow the model, the corpus, the server and detached jobs."""

import json
import math
import time
from collections.abc import Sequence
from typing import Any

import dagster as dg

from assets_pkg.automation.detached_jobs import open_detached_jobs, same_work
from assets_pkg.automation.jobs import CORPUS_JOB, REINDEX_JOB
from assets_pkg.config.profile import Profile
from assets_pkg.corpus.assets import SOURCE_FINGERPRINT
from assets_pkg.corpus.file_digests import DIGEST_CACHE
from assets_pkg.corpus.sources import CorpusError, seconds_since_change, source_fingerprint
from assets_pkg.deploy.assets import ALIVE
from assets_pkg.deploy.deploy import read_state
from assets_pkg.orchestration.asset_context import data_version
from assets_pkg.reindex.assets import IN_STEP, reindex_deps
from resources.compute.errors import ComputeError
from resources.configurable import AlertsResource
from storage.paths import STATE_FOLDER
from storage.remote_store import open_store

SERVER = "running_nim"
INPUT_VERSION = "dagster/input_data_version/"
"""Begins the tag in which Dagster records an input's data version."""


def build_sensors(profile: Profile) -> list[dg.SensorDefinition]:
    """All sensors are on unless switched off."""
    return [
        _reindex_sensor(profile),
        _corpus_sensor(profile),
        _server_sensor(profile),
        _index_sensor(profile),
        _batch_sensor(profile),
        _failure_sensor(),
    ]


def _reindex_sensor(profile: Profile) -> dg.SensorDefinition:
    followed = reindex_deps(profile.reindex)

    @dg.sensor(
        job_name=REINDEX_JOB,
        description="Rebuilds the index after a promotion, a rollback or a changed corpus: what is stale, once for "
        "each change. A failed re-index is tried once more, then stays visibly stale.",
        minimum_interval_seconds=profile.automation.reindex_sensor_seconds,
        default_status=dg.DefaultSensorStatus.RUNNING,
    )
    def reindex_when_model_or_corpus_changes(
        context: dg.SensorEvaluationContext,
    ) -> dg.RunRequest | dg.SkipReason:
        events = [_latest_storage_id(context.instance, key) for key in followed]
        if None in events:
            return dg.SkipReason("no promoted model or no passages yet, or no server that is to embed them")
        if SERVER in followed and not _serves_promoted(context.instance):
            return dg.SkipReason("the server does not serve the promoted model yet: run `retune deploy`")
        # Event ids, not versions: a rollback to an older model is a new event and must re-index again.
        return dg.RunRequest(run_key="-".join(["reindex", *map(str, events)]), stale_assets_only=True)

    return reindex_when_model_or_corpus_changes


def _corpus_sensor(profile: Profile) -> dg.SensorDefinition:
    @dg.sensor(
        job_name=CORPUS_JOB,
        description="Reads the corpus again when its files differ from what was last read and have come to rest.",
        minimum_interval_seconds=profile.automation.corpus_sensor_seconds,
        default_status=dg.DefaultSensorStatus.RUNNING,
    )
    def corpus_when_documents_change(context: dg.SensorEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        read = _latest(context.instance, "raw_corpus")
        if read is None:
            return dg.SkipReason("the corpus was never read: run the main job first")
        try:
            quiet = seconds_since_change(profile.corpus)
            cache = open_store(profile.artifact_root).root / DIGEST_CACHE
            now = source_fingerprint(profile.corpus, cache)
        except CorpusError as error:
            return dg.SkipReason(f"the corpus cannot be read now: {error}")
        if now == read.metadata[SOURCE_FINGERPRINT].value:
            return dg.SkipReason("no document changed")
        if quiet < profile.automation.corpus_quiet_seconds:
            return dg.SkipReason(f"documents changed {quiet:.0f} s ago: waiting until they are at rest")
        storage_id = _latest_storage_id(context.instance, "raw_corpus")
        return dg.RunRequest(run_key=f"corpus-{now}-{storage_id}")

    return corpus_when_documents_change


def _server_sensor(profile: Profile) -> dg.SensorDefinition:
    @dg.sensor(
        description="Marks the embedding server as dead or alive (the check of running_nim), and raises an alert once "
        "when it died.",
        minimum_interval_seconds=profile.automation.server_sensor_seconds,
        default_status=dg.DefaultSensorStatus.RUNNING,
    )
    def server_watch(
        context: dg.SensorEvaluationContext, alerts: AlertsResource
    ) -> dg.SensorResult | dg.SkipReason:
        state = read_state(open_store(profile.artifact_root).root / STATE_FOLDER)
        if state is None:
            return dg.SkipReason("no server was deployed")
        alive = state.alive()
        standing = f"{state.handle}:{alive}"
        if context.cursor == standing:
            return dg.SkipReason("nothing new")
        if not alive:
            alerts.send("server_died", f"the embedding server at {state.url} is gone; its log: {state.log}")
        evaluation = dg.AssetCheckEvaluation(
            asset_key=ALIVE.asset_key,
            check_name=ALIVE.name,
            passed=alive,
            metadata={"url": state.url, "server": state.handle, "log": dg.MetadataValue.path(state.log)},
        )
        return dg.SensorResult(asset_events=[evaluation], cursor=standing)

    return server_watch


def _index_sensor(profile: Profile) -> dg.SensorDefinition:
    followed = reindex_deps(profile.reindex)
    patience = profile.automation.index_may_lag_minutes * 60

    @dg.sensor(
        description="Says once, in the UI and as an alert, that the index has been behind the model or the corpus for "
        "too long.",
        minimum_interval_seconds=profile.automation.reindex_sensor_seconds,
        default_status=dg.DefaultSensorStatus.RUNNING,
    )
    def index_watch(
        context: dg.SensorEvaluationContext, alerts: AlertsResource
    ) -> dg.SensorResult | dg.SkipReason:
        if _latest(context.instance, "vector_index") is None:
            return dg.SkipReason("nothing is indexed yet")
        before: dict[str, Any] = json.loads(context.cursor or "{}")
        behind = behind_since(context.instance, followed)
        since = min([*behind.values(), before.get("since") or math.inf]) if behind else None
        late = since is not None and time.time() - since >= patience
        standing = json.dumps({"since": since, "late": late})
        if context.cursor == standing:
            return dg.SkipReason("the index is behind" if behind else "the index is in step")
        told = before.get("late", False)
        said = f"the index is behind {' and '.join(behind)} for more than {patience / 60:g} minutes"
        if late and not told:
            alerts.send("index_behind", f"{said}: look at the runs of the job {REINDEX_JOB}")
        evaluation = dg.AssetCheckEvaluation(
            asset_key=IN_STEP.asset_key,
            check_name=IN_STEP.name,
            passed=not late,
            severity=dg.AssetCheckSeverity.WARN,
            metadata={"standing": said if late else "in step"},
        )
        return dg.SensorResult(asset_events=[evaluation] if late != told else [], cursor=standing)

    return index_watch


def behind_since(instance: dg.DagsterInstance, followed: Sequence[str]) -> dict[str, float]:
    """Which of the index's inputs have moved on since it was made, and when (seconds since the epoch)."""
    index = _latest(instance, "vector_index")
    used = {} if index is None else index.tags or {}
    found: dict[str, float] = {}
    for key in followed:
        records = instance.fetch_materializations(dg.AssetKey(key), limit=1).records
        now = records[0].asset_materialization if records else None
        if now is not None and used.get(f"{INPUT_VERSION}{key}") != data_version(now):
            found[key] = records[0].timestamp
    return found


def _batch_sensor(profile: Profile) -> dg.SensorDefinition:
    @dg.sensor(
        description="Materializes what detached jobs have made once they have ended; until then says how they stand.",
        asset_selection=dg.AssetSelection.all(),
        minimum_interval_seconds=profile.automation.batch_sensor_seconds,
        default_status=dg.DefaultSensorStatus.RUNNING,
    )
    def pick_up_batch_jobs(
        context: dg.SensorEvaluationContext, alerts: AlertsResource
    ) -> dg.SensorResult | dg.SkipReason:
        batches = open_detached_jobs(profile)
        said: list[str] = []
        requests: list[dg.RunRequest] = []
        try:
            for batch, state in batches.open():
                said.append(f"{batch.name}: {state}")
                if state.standing in ("failed", "cancelled"):
                    alerts.send("batch_job_failed", f"{batch.name} at {batch.place}: {state.reason}")
                elif state.standing == "done" and not same_work(batch, profile):
                    said.append("it ran with other settings than these: `retune jobs pick-up` takes it")
                elif state.standing == "done":
                    selection = [dg.AssetKey(asset) for asset in batch.assets]
                    tags = {"retune/batch": batch.name, "retune/place": batch.place}
                    requests.append(dg.RunRequest(run_key=batch.name, asset_selection=selection, tags=tags))
                    batches.taken(batch)
        except ComputeError as error:
            said.append(str(error))
        if requests:
            return dg.SensorResult(run_requests=requests)
        return dg.SkipReason("; ".join(said) or "no detached job")

    return pick_up_batch_jobs


def _failure_sensor() -> dg.SensorDefinition:
    @dg.run_failure_sensor(
        description="Raises an alert for each failed run: in the log, and to RETUNE_ALERT_WEBHOOK where that is set.",
        default_status=dg.DefaultSensorStatus.RUNNING,
    )
    def alert_when_a_run_fails(context: dg.RunFailureSensorContext, alerts: AlertsResource) -> None:
        run = context.dagster_run
        alerts.send("run_failed", f"{run.job_name} {run.run_id}: {context.failure_event.message}")

    return alert_when_a_run_fails


def _serves_promoted(instance: dg.DagsterInstance) -> bool:
    """Whether the last deployment was of the model that is promoted now."""
    served, promoted = (_latest(instance, key) for key in (SERVER, "promoted_model"))
    return bool(served and promoted and served.metadata["model_digest"].value == data_version(promoted))


def _latest(instance: dg.DagsterInstance, key: str) -> dg.AssetMaterialization | None:
    event = instance.get_latest_materialization_event(dg.AssetKey(key))
    return None if event is None else event.asset_materialization


def _latest_storage_id(instance: dg.DagsterInstance, key: str) -> int | None:
    records = instance.fetch_materializations(dg.AssetKey(key), limit=1).records
    return records[0].storage_id if records else None
