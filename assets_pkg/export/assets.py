"""The promoted model as an ONNX folder for the embedding server, and as a TensorRT engine."""

import shutil
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args

import dagster as dg

from assets_pkg.config.profile import Profile
from assets_pkg.config.sections.export import DimensionSettings, GraphSettings, TensorrtSettings
from assets_pkg.export.exportable import ExportError, check_exportable
from assets_pkg.export.onnx import OnnxExportSettings, admit_export, export_onnx
from assets_pkg.export.tensorrt import build_engine, plan_engine
from assets_pkg.finetune.base_model import licence_of
from assets_pkg.nim.manifest import MANIFEST_FILE, QuantizedDtype, read_manifest
from assets_pkg.orchestration.asset_context import asset_context
from assets_pkg.orchestration.metadata import numbers, table
from assets_pkg.orchestration.run_observer import run_observer
from assets_pkg.orchestration.stage_asset import stage_asset
from assets_pkg.orchestration.upstream import UpstreamArtifacts, inputs_of_check
from resources.configurable import (
    AcceleratorResource,
    ArtifactStoreResource,
    ComputeResource,
    EncoderResource,
)
from resources.encoders.sample_texts import SAMPLE_TEXTS
from storage.artifacts import Checkpoint, EvalSet, OnnxModel, Passages, TensorrtEngine
from storage.paths import ONNX_LINK, TENSORRT_LINK

if TYPE_CHECKING:
    from assets_pkg.export.parity import ShapeParity
    from resources.encoders.base import Encoder


@dg.asset_check(
    asset="base_model",
    description="Nothing in the base model's folder keeps what is made of it from being exported and served.",
)
def can_be_exported(
    context: dg.AssetCheckExecutionContext, store: ArtifactStoreResource
) -> dg.AssetCheckResult:
    base = inputs_of_check(context, store).input(Checkpoint, "base_model")
    try:
        check_exportable(base.model)
    except ExportError as error:
        reason = f"{error}: it can be trained and measured (retune run --to eval), but not exported or served"
        context.log.warning(reason)
        run_observer().note(reason)
        return dg.AssetCheckResult(
            passed=False, severity=dg.AssetCheckSeverity.WARN, metadata={"reason": reason}
        )
    return dg.AssetCheckResult(passed=True)


def build_assets(profile: Profile) -> list[dg.AssetsDefinition | dg.AssetChecksDefinition]:
    """The ``export`` group."""

    graph_settings = profile.export.part(GraphSettings)
    engine_settings = profile.export.part(TensorrtSettings)

    lengths = profile.finetune.matryoshka_dims
    offered = (DimensionSettings(matryoshka_dims=lengths),) if lengths else ()

    @stage_asset(
        "export", graph_settings, profile.model, *offered, deps=("promoted_model",), kinds={"onnx"}, logic="2"
    )
    def onnx_model(
        context: dg.AssetExecutionContext,
        store: ArtifactStoreResource,
        compute: ComputeResource,
        accelerator: AcceleratorResource,
    ) -> dg.MaterializeResult:
        """The promoted model as an ONNX file, which the embedding server runs without PyTorch."""
        with asset_context(context, store, compute) as asset:
            model = asset.input(Checkpoint, "promoted_model")
            asset.store.verify(model)
            exported = asset.build(OnnxModel, lambda folder: _export(model, profile, accelerator, folder))
            asset.link(ONNX_LINK, exported.folder)
            size = (exported.folder / "model.onnx").stat().st_size / 1e6
            return asset.result(exported, {**numbers(exported.manifest()), "megabytes": size})

    @dg.asset_check(
        asset="onnx_model",
        additional_deps=["promoted_model", "passages", "eval_set"],
        blocking=True,
        description="The exported model gives the checkpoint's vectors, on real passages in many batch shapes.",
    )
    def onnx_parity(
        context: dg.AssetCheckExecutionContext, store: ArtifactStoreResource, encoders: EncoderResource
    ) -> dg.AssetCheckResult:
        from assets_pkg.export.parity import measure_parity  # loads onnxruntime

        inputs = inputs_of_check(context, store)
        model, exported = inputs.input(Checkpoint, "promoted_model"), inputs.input(OnnxModel, "onnx_model")
        if (model.model / MANIFEST_FILE).is_file():
            return dg.AssetCheckResult(passed=True, description="it is the exported model that was imported")
        parity = measure_parity(
            model.model,
            exported.folder,
            _sample_texts(inputs),
            trust_remote_code=profile.model.trust_remote_code,
        )
        figures = {"max_cosine_distance": parity.max_cosine_distance, "top10_overlap": parity.top10_overlap}
        shown = {**figures, "shapes": table(_shown(shape) for shape in parity.shapes)}
        if profile.export.export_dtype not in get_args(QuantizedDtype):
            limit = profile.export.max_cosine_distance
            return dg.AssetCheckResult(
                passed=parity.max_cosine_distance <= limit,
                description=f"the largest cosine distance to the checkpoint's vectors is "
                f"{parity.max_cosine_distance:.1e}; export.max_cosine_distance is {limit:g}",
                metadata={**shown, "limit": limit},
            )
        before, after = _eval_set_ndcg(inputs.input(EvalSet, "eval_set"), model, exported, profile, encoders)
        ranking = {"ndcg10_checkpoint": before, "ndcg10_exported": after, "ndcg10_loss": before - after}
        kept = parity.top10_overlap >= profile.export.min_top10_overlap
        return dg.AssetCheckResult(
            passed=kept and before - after <= profile.export.max_ndcg_loss,
            description=f"of the checkpoint's first ten passages {parity.top10_overlap:.0%} are kept "
            f"(export.min_top10_overlap: {profile.export.min_top10_overlap:.0%}); nDCG@10 {before:.4f} -> {after:.4f} "
            f"(export.max_ndcg_loss: {profile.export.max_ndcg_loss:g})",
            metadata={**shown, **ranking},
        )

    @stage_asset("export", engine_settings, deps=("onnx_model",), kinds={"tensorrt"}, optional=True)
    def tensorrt_engine(
        context: dg.AssetExecutionContext, store: ArtifactStoreResource, compute: ComputeResource
    ) -> Iterator[dg.MaterializeResult]:
        """The ONNX model compiled by TensorRT for this machine's GPU; made only if export.export_to_trt is true."""
        plan = plan_engine(engine_settings, with_dimensions=profile.export.export_layout == "recipe")
        if not profile.export.export_to_trt:
            context.log.info("export_to_trt is false: no TensorRT engine is built")
            return
        with asset_context(context, store, compute) as asset:
            exported = asset.input(OnnxModel, "onnx_model")
            asset.store.verify(exported)

            def produce(target: Path) -> None:
                build_engine(plan, exported.folder, target)

            engine = asset.build(TensorrtEngine, produce)
            asset.link(TENSORRT_LINK, engine.path)
            yield asset.result(engine, {"shapes": str(plan.shapes), "precision": plan.precision})

    return [can_be_exported, onnx_model, onnx_parity, tensorrt_engine]


def _export(model: Checkpoint, profile: Profile, accelerator: AcceleratorResource, folder: Path) -> None:
    target = folder / "onnx"
    shutil.rmtree(target, ignore_errors=True)
    if (model.model / MANIFEST_FILE).is_file():  # an exported model that was imported
        shutil.copytree(model.model, target)
        names = {"model_id": profile.deploy.served_model_name, "model_digest": model.version}
        read_manifest(target).model_copy(update=names).write(target)
        return
    admit_export(model.model, accelerator.host())
    settings = OnnxExportSettings(
        opset=profile.export.opset,
        export_dtype=profile.export.export_dtype,
        attn_implementation=profile.export.attn_implementation,
        max_length=profile.model.passage_max_length,
        query_prefix=profile.model.query_prefix,
        passage_prefix=profile.model.passage_prefix,
        license=licence_of(model.model),
        matryoshka_dims=tuple(profile.finetune.matryoshka_dims),
        layout=profile.export.export_layout,
    )
    export_onnx(
        model.model,
        target,
        model_id=profile.deploy.served_model_name,
        model_digest=model.version,
        settings=settings,
        trust_remote_code=profile.model.trust_remote_code,
    )


def _sample_texts(inputs: UpstreamArtifacts) -> list[str]:
    if inputs.previous("passages") is None:  # a model can be imported without documents
        return list(SAMPLE_TEXTS)
    return [passage.text for passage in inputs.input(Passages, "passages").sample(48)]


def _shown(shape: "ShapeParity") -> dict[str, Any]:
    """A table row; the distances of a correct export are too small for four decimals."""
    return {**asdict(shape), "max_cosine_distance": f"{shape.max_cosine_distance:.1e}"}


def _eval_set_ndcg(
    eval_set: EvalSet, model: Checkpoint, exported: OnnxModel, profile: Profile, encoders: EncoderResource
) -> tuple[float, float]:
    """nDCG@10 on the eval set: of the checkpoint, and of the exported model."""
    from assets_pkg.evaluation.evaluate import evaluate_retrieval
    from resources.encoders.onnx import OnnxEncoder

    settings = profile.eval.model_copy(update={"k_values": [10]})
    with encoders.open(model) as encoder:
        before = evaluate_retrieval(eval_set, encoder, settings).means()["NDCG@10"]
    served = cast("Encoder", OnnxEncoder(exported.folder, exported.version))  # its items may be plain texts
    return before, evaluate_retrieval(eval_set, served, settings).means()["NDCG@10"]
