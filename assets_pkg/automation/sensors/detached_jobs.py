"""The sensor that picks up what detached jobs have made."""

from collections.abc import Collection

import dagster as dg

from assets_pkg.automation.detached_jobs import (
    DetachedJob,
    PickUp,
    open_detached_jobs,
    pick_up_of,
    same_settings,
)
from assets_pkg.automation.sensors.alerts import takes_alerts
from assets_pkg.config.profile import Profile
from assets_pkg.orchestration.names import Names
from resources.compute.errors import ComputeError
from resources.compute.job import JobState
from resources.configurable import AlertsResource

NOT_DONE: tuple[PickUp, str] = ("none", "")


def detached_job_sensor(
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
