"""The resources of one profile, for the graph's steps and for the command."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from assets_pkg.config.base import ModelSettings
from assets_pkg.config.profile import Profile
from assets_pkg.config.sections.sdg import chat_config
from resources.compute.stage_targets import StageTargets
from resources.configurable import (
    AcceleratorResource,
    AlertsResource,
    ArtifactStoreResource,
    ChatModelResource,
    ComputeResource,
    ContainerEngineResource,
    EncoderResource,
)
from storage.paths import ANSWER_CACHE


@dataclass(frozen=True)
class Resources:
    """Every resource, under the name that assets ask for it by."""

    store: ArtifactStoreResource
    accelerator: AcceleratorResource
    encoders: EncoderResource
    chat_model: ChatModelResource
    alerts: AlertsResource
    containers: ContainerEngineResource
    compute: ComputeResource


def build_resources(profile: Profile) -> Resources:
    """The resources that ``profile`` describes. Nothing is loaded or opened yet."""
    store = ArtifactStoreResource(root=profile.artifact_root)
    accelerator = AcceleratorResource(**profile.accelerator.model_dump())
    answers = store.get().root / ANSWER_CACHE
    return Resources(
        store=store,
        accelerator=accelerator,
        encoders=encoders_for(store.get().root, profile.model, profile.eval.eval_batch_size, accelerator),
        chat_model=ChatModelResource.from_config(chat_config(profile.sdg, answers)),
        alerts=AlertsResource(),
        containers=ContainerEngineResource(),
        compute=ComputeResource(profile_targets=_stage_targets(profile)),
    )


def _stage_targets(profile: Profile) -> StageTargets:
    return StageTargets(**profile.compute.model_dump(), profile=profile.model_dump_json())


def encoders_for(
    root: Path,
    model: ModelSettings,
    batch_size: int = 128,
    accelerator: AcceleratorResource | None = None,
) -> EncoderResource:
    """Encoders of checkpoints under one prompt contract, with their cache of vectors below ``root``."""
    return EncoderResource(
        store=ArtifactStoreResource(root=str(root)),
        accelerator=accelerator or AcceleratorResource(),
        encoder_config=model.encoder_config(batch_size),
    )
