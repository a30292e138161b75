"""The sensors that follow the promoted model: the index is rebuilt, and then the server replaced."""

import dagster as dg

from assets_pkg.automation.jobs import DEPLOY_JOB, REINDEX_JOB
from assets_pkg.automation.sensors.other_settings import made_with_other_settings
from assets_pkg.config.profile import Profile
from assets_pkg.deploy.deploy import read_state, settings_problem
from assets_pkg.orchestration.history import data_version, latest, latest_record
from assets_pkg.orchestration.names import Names
from assets_pkg.reindex.assets import reindex_deps
from assets_pkg.reindex.searched_index import SearchError, current_index
from storage.artifact_store import ArtifactError, ArtifactStore
from storage.paths import STATE_FOLDER
from storage.remote_store import open_store

SERVER = "running_nim"


def reindex_sensor(profile: Profile, names: Names) -> dg.SensorDefinition:
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
        if others := made_with_other_settings(context, profile, names):
            return dg.SkipReason(others)
        if SERVER in followed and not _serves_promoted(context.instance, names):
            return dg.SkipReason(
                "the server does not serve the promoted model yet: materialize "
                f"{names.key(SERVER).to_user_string()}, or run `retune deploy`"
            )
        # Event ids, not versions: a rollback to an older model is a new event and must re-index again.
        return dg.RunRequest(run_key="-".join(["reindex", *map(str, events)]), stale_assets_only=True)

    return reindex_when_model_or_corpus_changes


def _serves_promoted(instance: dg.DagsterInstance, names: Names) -> bool:
    """Whether the last deployment was of the model that is promoted now."""
    served, promoted = (latest(instance, names.key(asset)) for asset in (SERVER, "promoted_model"))
    return bool(served and promoted and served.metadata["model_digest"].value == data_version(promoted))


def deploy_sensor(profile: Profile, names: Names) -> dg.SensorDefinition:
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
        if others := made_with_other_settings(context, profile, names) or settings_problem(
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
