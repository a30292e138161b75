"""The assets of stage 2: the base model and the fine-tuned checkpoint."""

from collections.abc import Callable
from pathlib import Path

import dagster as dg

from assets_pkg.config.profile import Profile
from assets_pkg.config.sections.finetune import FinetuneSettings
from assets_pkg.finetune.adapter import train_adapter
from assets_pkg.finetune.base_model import describe_contract, fetch_base_model, registry_facts
from assets_pkg.finetune.distillation import make_distillation
from assets_pkg.finetune.imported import (
    ImportSettings,
    folder_fingerprint,
    import_model,
    imported_folder_changed,
    imported_from,
)
from assets_pkg.finetune.launch import launch_training
from assets_pkg.finetune.sweep import run_sweep
from assets_pkg.orchestration.asset_context import AssetContext, asset_context
from assets_pkg.orchestration.metadata import numbers, picture, table
from assets_pkg.orchestration.stage_asset import accelerator_pool, stage_asset
from resources.configurable import (
    AcceleratorResource,
    ArtifactStoreResource,
    ComputeResource,
    EncoderResource,
)
from resources.machine.imports import announce_import
from storage.artifact_store import ArtifactStore
from storage.artifacts import Checkpoint, MinedTrainSet, TrainingSet
from storage.embedding_cache import EmbeddingCache
from storage.paths import CHECKPOINTS, EMBEDDING_CACHE

MIX_FINGERPRINT = "mix_fingerprint"
MODELS_YAML = "models.yaml"
"""The registry's facts of the base model, as an input outside the graph."""


def base_model_changed(made: dg.AssetMaterialization, profile: Profile, store: ArtifactStore) -> str | None:
    """Whether the registry says something else of the base model than it did when that was made."""
    before = made.metadata.get(MODELS_YAML)
    facts = registry_facts(profile.model)
    if before is None or facts is None or before.value == facts:
        return None
    return f"{MODELS_YAML} says something else of {profile.model.base_model}"


def _training(
    asset: AssetContext, profile: Profile, accelerator: AcceleratorResource, encoders: EncoderResource
) -> Callable[[Path], None]:
    """What makes the checkpoint: its teacher's scores, and one training or a sweep."""
    mined = asset.input(MinedTrainSet, "mined_train_set")
    base = asset.input(Checkpoint, "base_model")

    def train(settings: FinetuneSettings, folder: Path) -> None:
        inputs = (mined, base, profile.model, settings)
        if settings.method == "adapter":
            with encoders.open(base) as encoder:
                train_adapter(*inputs, encoder, folder, asset.progress(), asset.note)
        else:
            launch_training(*inputs, accelerator.get(), folder, asset.progress(), asset.note)

    def produce(folder: Path) -> None:
        if profile.finetune.teacher:
            _teach(asset, profile.finetune, mined, base, encoders, folder)
        if profile.finetune.sweep:
            run_sweep(mined, profile.finetune, folder, train, asset.note)
        else:
            train(profile.finetune, folder)

    return produce


def _teach(
    asset: AssetContext,
    settings: FinetuneSettings,
    mined: MinedTrainSet,
    base: Checkpoint,
    encoders: EncoderResource,
    folder: Path,
) -> None:
    """Write the distillation set that training reads."""
    training, cache = (
        asset.input(TrainingSet, "training_set"),
        EmbeddingCache(asset.store.root / EMBEDDING_CACHE),
    )
    accelerator = encoders.accelerator.get()
    with encoders.open(base) as encoder:
        make_distillation(
            mined, training, base, settings, encoder, accelerator, cache, folder, asset.progress(), asset.note
        )


def build_assets(profile: Profile) -> list[dg.AssetsDefinition]:
    """The ``finetune`` group."""
    brought = profile.eval.finetuned_model_path
    tuned = _trained_checkpoint(profile) if brought is None else _imported_checkpoint(profile, brought)
    return [_base_model(profile), tuned]


def _base_model(profile: Profile) -> dg.AssetsDefinition:
    @stage_asset("finetune", profile.model, kinds={"huggingface"})
    def base_model(
        context: dg.AssetExecutionContext,
        store: ArtifactStoreResource,
        compute: ComputeResource,
        accelerator: AcceleratorResource,
    ) -> dg.MaterializeResult:
        """The embedding model as it is before it is fine-tuned on the documents."""
        with asset_context(context, store, compute) as asset:

            def produce(folder: Path) -> None:
                announce_import(asset.note)
                fetch_base_model(profile.model, folder, asset.progress(), accelerator.host())

            asset.note(describe_contract(profile.model))
            facts = registry_facts(profile.model)
            outside = {} if facts is None else {MODELS_YAML: facts}
            model = asset.build(Checkpoint, produce, outside=outside)
            warning = model.summary().get("warning")
            if warning:
                context.log.warning(warning)
            warned = {"warning": warning} if warning else {}
            return asset.result(model, {**numbers(model.summary()), **warned, **outside})

    return base_model


def _trained_checkpoint(profile: Profile) -> dg.AssetsDefinition:
    @stage_asset(
        "finetune",
        profile.finetune,
        profile.model,
        deps=("mined_train_set", "base_model", *(("training_set",) if profile.finetune.teacher else ())),
        pool=accelerator_pool(profile.compute, "finetune"),
        kinds={"pytorch", "huggingface"},
    )
    def checkpoint(
        context: dg.AssetExecutionContext,
        store: ArtifactStoreResource,
        compute: ComputeResource,
        accelerator: AcceleratorResource,
        encoders: EncoderResource,
    ) -> dg.MaterializeResult:
        """The model fine-tuned on the training questions, or the base model where training would not help, with the
        reason."""
        with asset_context(context, store, compute) as asset:
            mixed = mixed_folder(profile)
            outside = {MIX_FINGERPRINT: folder_fingerprint(mixed)} if mixed else {}
            tuned = asset.build(Checkpoint, _training(asset, profile, accelerator, encoders), outside=outside)
            asset.link(f"{CHECKPOINTS}/{tuned.version}", tuned.path)
            asset.link(f"{CHECKPOINTS}/LATEST", tuned.path)
            curves = tuned.path / "loss.png"
            shown = {"curves": picture(curves)} if curves.exists() else {}
            summary = tuned.summary()
            if "sweep" in summary:
                shown["sweep"] = table(summary["sweep"])
            return asset.result(tuned, {**numbers(summary), **shown, **outside})

    return checkpoint


def _imported_checkpoint(profile: Profile, source: str) -> dg.AssetsDefinition:
    @stage_asset("finetune", profile.model, ImportSettings(imported_model=source), kinds={"huggingface"})
    def checkpoint(
        context: dg.AssetExecutionContext,
        store: ArtifactStoreResource,
        compute: ComputeResource,
        accelerator: AcceleratorResource,
    ) -> dg.MaterializeResult:
        """A fine-tuned model that the user brings; nothing is trained."""
        with asset_context(context, store, compute) as asset:
            tuned = import_model(asset, profile.model, source, accelerator)
            asset.link(f"{CHECKPOINTS}/{tuned.version}", tuned.path)
            asset.link(f"{CHECKPOINTS}/LATEST", tuned.path)
            return asset.result(tuned, {**numbers(tuned.summary()), **imported_from(source)})

    return checkpoint


def checkpoint_folder_changed(
    made: dg.AssetMaterialization, profile: Profile, _: ArtifactStore
) -> str | None:
    """Whether the folder that ``checkpoint`` was imported from changed, or that with the general pairs."""
    mixed, before = mixed_folder(profile), made.metadata.get(MIX_FINGERPRINT)
    if mixed and before is not None and before.value != folder_fingerprint(mixed):
        return f"{mixed} changed"
    return imported_folder_changed(made, profile.eval.finetuned_model_path)


def mixed_folder(profile: Profile) -> str | None:
    """The folder of general pairs that training mixes in, if any."""
    return profile.finetune.mix.path if profile.finetune.mix else None
