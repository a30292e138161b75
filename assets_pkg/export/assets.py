"""The promoted model as an ONNX folder that the embedding server serves alone."""

import shutil
from pathlib import Path

import dagster as dg

from assets_pkg.door import Inputs, open_door, stage_asset
from assets_pkg.export.onnx import OnnxExportSettings, export_onnx
from assets_pkg.profile import Profile
from assets_pkg.showing import numbers
from resources.artifacts import ArtifactStoreResource
from storage.artifacts import Checkpoint, OnnxModel, Passages


def build_assets(profile: Profile) -> list[dg.AssetsDefinition | dg.AssetChecksDefinition]:
    """The ``export`` group."""

    @stage_asset("export", profile.export, profile.model, deps=("promoted_model",), kinds={"onnx"})
    def onnx_model(context: dg.AssetExecutionContext, store: ArtifactStoreResource) -> dg.MaterializeResult:
        """The promoted model with pooling and normalisation inside the graph, tokenizer and manifest beside."""
        with open_door(context, store) as door:
            model = door.input(Checkpoint, "promoted_model")
            exported = door.build(OnnxModel, lambda folder: _export(model, profile, folder))
            door.store.link("stage4_export/onnx", exported.folder)
            size = (exported.folder / "model.onnx").stat().st_size / 1e6
            return door.result(exported, {**numbers(exported.manifest()), "megabytes": size})

    @dg.asset_check(asset="onnx_model", additional_deps=["promoted_model", "passages"], blocking=True)
    def onnx_parity(
        context: dg.AssetCheckExecutionContext, store: ArtifactStoreResource
    ) -> dg.AssetCheckResult:
        """The exported model gives the checkpoint's vectors, on real passages at many shapes."""
        from assets_pkg.export.parity import measure_parity  # loads onnxruntime

        inputs = Inputs(context.instance, store)
        parity = measure_parity(
            inputs.input(Checkpoint, "promoted_model").model,
            inputs.input(OnnxModel, "onnx_model").folder,
            [passage.text for passage in inputs.input(Passages, "passages").sample(48)],
        )
        limit = profile.export.max_cosine_distance
        return dg.AssetCheckResult(
            passed=parity.max_cosine_distance <= limit,
            metadata={"max_cosine_distance": parity.max_cosine_distance, "limit": limit},
        )

    return [onnx_model, onnx_parity]


def _export(model: Checkpoint, profile: Profile, folder: Path) -> None:
    target = folder / "onnx"
    shutil.rmtree(target, ignore_errors=True)
    settings = OnnxExportSettings(
        opset=profile.export.opset,
        export_dtype=profile.export.export_dtype,
        attn_implementation=profile.export.attn_implementation,
        max_length=profile.model.passage_max_length,
        query_prefix=profile.model.query_prefix,
        passage_prefix=profile.model.passage_prefix,
    )
    export_onnx(
        model.model,
        target,
        model_id=profile.deploy.served_model_name,
        model_digest=model.version,
        settings=settings,
    )
