"""Assembles the graph: every asset, check, job, sensor and resource of one profile."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from typing import Any

import dagster as dg

from assets_pkg import automation
from assets_pkg.corpus.assets import build_assets as corpus
from assets_pkg.deploy.assets import build_assets as deploy
from assets_pkg.evaluation.assets import build_assets as evaluation
from assets_pkg.export.assets import build_assets as export
from assets_pkg.finetune.assets import build_assets as finetune
from assets_pkg.prep.assets import build_assets as prep
from assets_pkg.profile import Profile
from assets_pkg.reindex.assets import build_assets as reindex
from assets_pkg.sdg.assets import build_assets as sdg
from resources.accelerator import AcceleratorResource
from resources.alerts import AlertsResource
from resources.artifacts import ArtifactStoreResource
from resources.containers import ContainerEngineResource
from resources.encoders.resource import EncoderResource

ROOMS = (corpus, sdg, prep, finetune, evaluation, export, deploy, reindex)


def build_definitions(
    profile: Profile, resource_overrides: Mapping[str, Any] | None = None
) -> dg.Definitions:
    """The whole graph for one profile. ``resource_overrides`` replaces resources by name, as tests do."""
    store = ArtifactStoreResource(root=profile.artifact_root)
    accelerator = AcceleratorResource()
    encoders = EncoderResource(
        store=store,
        accelerator=accelerator,
        batch_size=profile.eval.eval_batch_size,
        **profile.model.encoder_config(),
    )
    parts = list(chain.from_iterable(room(profile) for room in ROOMS))
    return dg.Definitions(
        assets=[part for part in parts if not isinstance(part, dg.AssetChecksDefinition)],
        asset_checks=[part for part in parts if isinstance(part, dg.AssetChecksDefinition)],
        jobs=automation.build_jobs(),
        sensors=automation.build_sensors(profile),
        schedules=automation.build_schedules(profile),
        resources={
            "store": store,
            "accelerator": accelerator,
            "encoders": encoders,
            "alerts": AlertsResource(),
            "containers": ContainerEngineResource(),
            **(resource_overrides or {}),
        },
    )
