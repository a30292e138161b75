"""Assembles the graph: every asset, check, job, sensor and resource of one profile."""

from __future__ import annotations

import os
import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

import dagster as dg

from assets_pkg.automation.jobs import build_jobs
from assets_pkg.automation.schedules import build_schedules
from assets_pkg.automation.sensors import build_sensors
from assets_pkg.config.profile import Profile
from assets_pkg.config.profile_files import load_profile
from assets_pkg.config.stages import BENCHMARKS
from assets_pkg.corpus.assets import build_assets as corpus
from assets_pkg.corpus.upstream import ASSET
from assets_pkg.deploy.assets import build_assets as deploy
from assets_pkg.evaluation.assets import build_assets as evaluation
from assets_pkg.export.assets import build_assets as export
from assets_pkg.finetune.assets import build_assets as finetune
from assets_pkg.image_text.assets import build_assets as image_text
from assets_pkg.judges.assets import build_assets as judges
from assets_pkg.orchestration.instance import GPU_POOL
from assets_pkg.orchestration.names import Names
from assets_pkg.orchestration.places import with_places
from assets_pkg.orchestration.prefixed import Style, placed
from assets_pkg.orchestration.resources import build_resources
from assets_pkg.orchestration.run_settings import with_run_settings
from assets_pkg.prep.assets import build_assets as prep
from assets_pkg.reindex.assets import build_assets as reindex
from assets_pkg.sdg.assets import build_assets as sdg
from storage.paths import IMAGE_TEXT_RESULTS, JUDGE_RESULTS
from storage.remote_store import open_store

GROUPS = (sdg, prep, finetune, evaluation, export, deploy, reindex)
BENCHMARK_GROUPS = {"judges": judges, "image_text": image_text}
SENSORS, SCHEDULES = "sensors", "schedules"
EVERYTHING = (SENSORS, SCHEDULES, *BENCHMARKS)
"""What can be left out of a graph."""


def build_definitions(
    profile: Profile,
    *,
    key_prefix: str | Sequence[str] | None = None,
    corpus_asset: str | Sequence[str] | dg.AssetKey | dg.AssetSpec | dg.AssetsDefinition | None = None,
    resource_overrides: Mapping[str, Any] | None = None,
    group_prefix: str | None = None,
    owners: Sequence[str] | None = None,
    tags: Mapping[str, str] | None = None,
    accelerator_pool: str = GPU_POOL,
    include: Collection[str] = EVERYTHING,
) -> dg.Definitions:
    """The graph for one profile, to be loaded as it is or merged with others (``dg.Definitions.merge``).

    Args:
        key_prefix: precedes the names of all assets. Jobs, sensors, schedules, steps and resources are called by it
            too, as ``prefix__name``, so that several graphs can be merged: each with an ``artifact_root`` and a
            ``deploy.host_port`` of its own.
        corpus_asset: of the user's own, in place of ``corpus.corpus_dir``: its materializations name the documents, in
            the metadata ``path`` (a folder or a table's file) or ``url``.
        resource_overrides: replaces resources by their names without a prefix (``store``, ``chat_model``, ...).
        group_prefix: precedes the names of the groups; by default the key prefix, with ``""`` nothing.
        owners: of all assets, as Dagster takes them (``team:search``, an e-mail address).
        tags: are added to all assets.
        accelerator_pool: the pool in which steps that train or embed wait. Graphs that share an accelerator share its
            pool.
        include: which of :data:`EVERYTHING` belongs to it. The UI of a project leaves out the benchmarks that are not
            configured (:func:`configured_benchmarks`).

    When the code location is loaded, a graph that has the artifact root or the server port of another one there is
    refused with a ``PlacesError``, except for one without a prefix.

    Raises:
        NamesError: a key prefix that Dagster's names cannot have.
        ValueError: ``include`` names something else.
    """
    if unknown := set(include) - set(EVERYTHING):
        raise ValueError(f"include: {sorted(unknown)} is unknown; there are {', '.join(EVERYTHING)}")
    source = None if corpus_asset is None else dg.AssetDep(corpus_asset).asset_key  # type: ignore[arg-type]
    profile = profile if source is None else _with_documents_of(profile, source)
    names, style = Names.under(key_prefix), Style(group_prefix, owners, tags, accelerator_pool)
    benchmarks = [name for name in BENCHMARKS if name in include]
    groups = [*GROUPS, *(BENCHMARK_GROUPS[name] for name in benchmarks)]
    resources = vars(build_resources(profile))

    def build(settings: Profile) -> list[dg.AssetsDefinition]:
        made = chain(corpus(settings, source), *(build_group(settings) for build_group in groups))
        return placed(_with_code_references(made), names, resources, style)

    parts = with_run_settings(build(profile), profile, build)
    checks = [_as_check(part) for part in parts if not part.keys]
    assets = [with_places(part, profile, names) for part in parts if part.keys]
    keys = [key for asset in assets for key in asset.keys]
    return dg.Definitions(
        assets=assets,
        asset_checks=checks,
        jobs=build_jobs(profile, benchmarks, names),
        sensors=build_sensors(profile, keys, names, source) if SENSORS in include else (),
        schedules=build_schedules(profile, names) if SCHEDULES in include else (),
        resources={
            names.of(name): made for name, made in {**resources, **(resource_overrides or {})}.items()
        },
    )


def _with_documents_of(profile: Profile, source: dg.AssetKey) -> Profile:
    """``profile``, in which the documents are those of the asset ``source``, wherever it makes them."""
    documents = profile.corpus.model_copy(update={"corpus_dir": f"{ASSET}{source.to_user_string()}"})
    return profile.model_copy(update={"corpus": documents})


def _as_check(part: dg.AssetsDefinition) -> dg.AssetChecksDefinition:
    """Of the class that Dagster expects of a check; it would make one itself, and warn in each command."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.BetaWarning)
        return dg.AssetChecksDefinition(**part.get_attributes_dict())


def _with_code_references(parts: Iterable[dg.AssetsDefinition]) -> list[dg.AssetsDefinition]:
    """The assets, each with the file and line of its function, which the UI links to; checks as they are."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.BetaWarning)
        made: list[Any] = [
            part if isinstance(part, dg.AssetChecksDefinition) else dg.with_source_code_references([part])[0]
            for part in parts
        ]
        return made


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
