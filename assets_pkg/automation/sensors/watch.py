"""The sensors that raise alerts: of the server, of the index, and of failed runs."""

import json
import math
import time
from collections.abc import Collection, Sequence
from typing import Any

import dagster as dg

from assets_pkg.automation.jobs import DEPLOY_JOB, JOBS, REINDEX_JOB
from assets_pkg.automation.sensors.alerts import takes_alerts
from assets_pkg.automation.sensors.model import SERVER
from assets_pkg.config.profile import Profile
from assets_pkg.deploy.assets import ALIVE
from assets_pkg.deploy.deploy import read_state
from assets_pkg.deploy.server_state import DeployError
from assets_pkg.orchestration.history import data_version, input_version, latest, latest_record
from assets_pkg.orchestration.instance import PROCESS_TAG
from assets_pkg.orchestration.names import UNPREFIXED, Names
from assets_pkg.reindex.assets import IN_STEP, reindex_deps
from assets_pkg.reindex.searched_index import SearchError, disagreements
from resources.configurable import AlertsResource
from resources.vector_store.base import VectorStoreError
from storage.artifact_store import ArtifactError
from storage.paths import STATE_FOLDER
from storage.remote_store import open_store


def server_sensor(profile: Profile, names: Names) -> dg.SensorDefinition:
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


def index_sensor(profile: Profile, names: Names) -> dg.SensorDefinition:
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


def failure_sensor(assets: Collection[dg.AssetKey], names: Names) -> dg.SensorDefinition:
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
