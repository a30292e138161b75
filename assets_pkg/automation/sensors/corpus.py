"""The sensors that read the documents again when they change."""

import dagster as dg

from assets_pkg.automation.jobs import CORPUS_JOB
from assets_pkg.automation.sensors.other_settings import made_with_other_settings
from assets_pkg.config.profile import Profile
from assets_pkg.corpus.assets import SOURCE_FINGERPRINT
from assets_pkg.corpus.sources import CorpusError, seconds_since_change, source_fingerprint
from assets_pkg.orchestration.history import is_made_from, latest, latest_record
from assets_pkg.orchestration.names import Names
from storage.paths import CACHE
from storage.remote_store import open_store


def corpus_sensor(profile: Profile, names: Names) -> dg.SensorDefinition:
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
        if others := made_with_other_settings(context, profile, names):
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


def corpus_asset_sensor(profile: Profile, names: Names, corpus_asset: dg.AssetKey) -> dg.SensorDefinition:
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
        if others := made_with_other_settings(context, profile, names):
            return dg.SkipReason(others)
        if is_made_from(read, corpus_asset, made):
            return dg.SkipReason(f"{corpus_asset.to_user_string()} has made no other version")
        return dg.RunRequest(run_key=f"corpus-{made.storage_id}")

    return corpus_when_documents_change
