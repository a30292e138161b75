"""Assembles the graph: every asset, check, job, sensor and resource of one profile."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from typing import Any

import dagster as dg

from assets_pkg.automation.jobs import build_jobs
from assets_pkg.automation.schedules import build_schedules
from assets_pkg.automation.sensors import build_sensors
from assets_pkg.config.profile import Profile
from assets_pkg.corpus.assets import build_assets as corpus
from assets_pkg.deploy.assets import build_assets as deploy
from assets_pkg.evaluation.assets import build_assets as evaluation
from assets_pkg.export.assets import build_assets as export
from assets_pkg.finetune.assets import build_assets as finetune
from assets_pkg.image_text.assets import build_assets as image_text
from assets_pkg.judges.assets import build_assets as judges
from assets_pkg.orchestration.resources import build_resources
from assets_pkg.prep.assets import build_assets as prep
from assets_pkg.reindex.assets import build_assets as reindex
from assets_pkg.sdg.assets import build_assets as sdg

GROUPS = (corpus, sdg, prep, finetune, evaluation, export, deploy, reindex, judges, image_text)


def build_definitions(
    profile: Profile, resource_overrides: Mapping[str, Any] | None = None
) -> dg.Definitions:
    """The whole graph for one profile. ``resource_overrides`` replaces resources by name, as tests do."""
    parts = list(chain.from_iterable(build_group(profile) for build_group in GROUPS))
    return dg.Definitions(
        assets=[part for part in parts if not isinstance(part, dg.AssetChecksDefinition)],
        asset_checks=[part for part in parts if isinstance(part, dg.AssetChecksDefinition)],
        jobs=build_jobs(profile),
        sensors=build_sensors(profile),
        schedules=build_schedules(profile),
        resources={
            **vars(build_resources(profile)),
            **(resource_overrides or {}),
        },
    )
