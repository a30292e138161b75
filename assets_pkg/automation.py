"""What runs by itself: jobs, the re-index sensor, the corpus sensor, the nightly refresh."""

import dagster as dg

from assets_pkg.corpus.assets import SOURCE_FINGERPRINT
from assets_pkg.corpus.sources import CorpusError, source_fingerprint
from assets_pkg.profile import Profile

MAIN_JOB = "retune"
REINDEX_JOB = "reindex"
CORPUS_JOB = "refresh_corpus"


def build_jobs() -> list[dg.UnresolvedAssetJobDefinition]:
    """The main job (everything), the re-index job and the corpus job."""
    return [
        dg.define_asset_job(MAIN_JOB, selection="*", description="The whole graph, documents to index."),
        dg.define_asset_job(
            REINDEX_JOB,
            selection=["corpus_embeddings", "vector_index"],
            description="Embed the corpus with the promoted model and index it.",
            tags={"dagster/max_retries": "1"},
        ),
        dg.define_asset_job(
            CORPUS_JOB, selection=["raw_corpus", "passages"], description="Read the documents again."
        ),
    ]


def build_sensors(profile: Profile) -> list[dg.SensorDefinition]:
    """Both sensors are on unless switched off."""

    @dg.sensor(
        job_name=REINDEX_JOB,
        minimum_interval_seconds=profile.automation.reindex_sensor_seconds,
        default_status=dg.DefaultSensorStatus.RUNNING,
    )
    def reindex_when_model_or_corpus_changes(
        context: dg.SensorEvaluationContext,
    ) -> dg.RunRequest | dg.SkipReason:
        """Ask for stale re-indexing assets only, once for each promotion and each corpus event."""
        events = [_latest_storage_id(context.instance, key) for key in ("promoted_model", "passages")]
        if None in events:
            return dg.SkipReason("no promoted model or no passages yet")
        # Event ids, not versions: a rollback to an older model is a new event and must re-index again.
        return dg.RunRequest(run_key=f"reindex-{events[0]}-{events[1]}", stale_assets_only=True)

    @dg.sensor(
        job_name=CORPUS_JOB,
        minimum_interval_seconds=profile.automation.corpus_sensor_seconds,
        default_status=dg.DefaultSensorStatus.RUNNING,
    )
    def corpus_when_documents_change(
        context: dg.SensorEvaluationContext,
    ) -> dg.RunRequest | dg.SkipReason:
        """Read the corpus again when its files differ from what was last read."""
        event = context.instance.get_latest_materialization_event(dg.AssetKey("raw_corpus"))
        if event is None or event.asset_materialization is None:
            return dg.SkipReason("the corpus was never read: run the main job first")
        try:
            now = source_fingerprint(profile.corpus)
        except CorpusError as error:
            return dg.SkipReason(f"the corpus cannot be read now: {error}")
        if now == event.asset_materialization.metadata[SOURCE_FINGERPRINT].value:
            return dg.SkipReason("no file changed")
        storage_id = _latest_storage_id(context.instance, "raw_corpus")
        return dg.RunRequest(run_key=f"corpus-{now}-{storage_id}")

    return [reindex_when_model_or_corpus_changes, corpus_when_documents_change]


def build_schedules(profile: Profile) -> list[dg.ScheduleDefinition]:
    """The full refresh, off until it is switched on."""
    return [
        dg.ScheduleDefinition(
            name="full_refresh",
            job_name=MAIN_JOB,
            cron_schedule=profile.automation.refresh_cron,
            execution_timezone=profile.automation.timezone,
            default_status=dg.DefaultScheduleStatus.STOPPED,
        )
    ]


def _latest_storage_id(instance: dg.DagsterInstance, key: str) -> int | None:
    records = instance.fetch_materializations(dg.AssetKey(key), limit=1).records
    return records[0].storage_id if records else None
