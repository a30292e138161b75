"""The sensors of a graph: those that rebuild what is stale, and those that watch."""

from collections.abc import Collection

import dagster as dg

from assets_pkg.automation.sensors.corpus import corpus_asset_sensor, corpus_sensor
from assets_pkg.automation.sensors.detached_jobs import detached_job_sensor
from assets_pkg.automation.sensors.model import deploy_sensor, reindex_sensor
from assets_pkg.automation.sensors.watch import failure_sensor, index_sensor, server_sensor
from assets_pkg.config.profile import Profile
from assets_pkg.orchestration.names import UNPREFIXED, Names


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
        reindex_sensor(profile, names),
        deploy_sensor(profile, names),
        corpus_sensor(profile, names)
        if corpus_asset is None
        else corpus_asset_sensor(profile, names, corpus_asset),
        server_sensor(profile, names),
        index_sensor(profile, names),
        detached_job_sensor(profile, assets, names),
        failure_sensor(assets, names),
    ]
