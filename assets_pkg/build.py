"""Assembles the graph: every asset, check, job, sensor and resource of one profile."""

from __future__ import annotations

import os
import warnings
from collections.abc import Collection, Mapping, Sequence
from itertools import chain
from typing import Any

import dagster as dg

from assets_pkg.automation.jobs import build_jobs
from assets_pkg.automation.schedules import build_schedules
from assets_pkg.automation.sensors import build_sensors
from assets_pkg.config.profile import Profile, load_profile
from assets_pkg.config.stages import BENCHMARKS
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
from storage.paths import IMAGE_TEXT_RESULTS, JUDGE_RESULTS
from storage.remote_store import open_store

GROUPS = (corpus, sdg, prep, finetune, evaluation, export, deploy, reindex)
BENCHMARK_GROUPS = {"judges": judges, "image_text": image_text}


def build_definitions(
    profile: Profile,
    resource_overrides: Mapping[str, Any] | None = None,
    *,
    benchmarks: Collection[str] = tuple(BENCHMARKS),
) -> dg.Definitions:
    """The graph for one profile.

    Args:
        resource_overrides: replaces resources by name, as tests do.
        benchmarks: which of the benchmarks belong to it; the UI leaves out those that are not configured
            (`configured_benchmarks`).
    """
    groups = [*GROUPS, *(BENCHMARK_GROUPS[name] for name in benchmarks)]
    parts = list(chain.from_iterable(build_group(profile) for build_group in groups))
    return dg.Definitions(
        assets=_with_code_references(
            [part for part in parts if not isinstance(part, dg.AssetChecksDefinition)]
        ),
        asset_checks=[part for part in parts if isinstance(part, dg.AssetChecksDefinition)],
        jobs=build_jobs(profile, benchmarks),
        sensors=build_sensors(profile),
        schedules=build_schedules(profile),
        resources={
            **vars(build_resources(profile)),
            **(resource_overrides or {}),
        },
    )


def _with_code_references(assets: Sequence[Any]) -> list[Any]:
    """The assets, each with the file and line of its function, which the UI links to."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.BetaWarning)
        return list(dg.with_source_code_references(assets))


def configured_benchmarks(profile: Profile) -> list[str]:
    """The benchmarks that someone uses in this project: their settings are not those of the default profile, or their
    results are in the store of this machine. "Materialize all" would fail in the others, which lack their inputs."""
    unchanged = load_profile("default")
    root = open_store(profile.artifact_root).root
    results = {"judges": JUDGE_RESULTS, "image_text": IMAGE_TEXT_RESULTS}
    return [
        name
        for name in BENCHMARKS
        if getattr(profile, name) != getattr(unchanged, name) or os.path.lexists(root / results[name])
    ]
