"""The exported model as a running embedding server, and its retrieval metrics through the endpoint."""

from dataclasses import asdict
from pathlib import Path

import dagster as dg

from assets_pkg.config.profile import Profile
from assets_pkg.deploy.backends.docker import ContainerState
from assets_pkg.deploy.backends.nim_image import needs_engine
from assets_pkg.deploy.backends.vllm import VllmState
from assets_pkg.deploy.deploy import (
    deploy,
    key_problem,
    read_state,
    server_of,
    settings_problem,
    shown_command,
)
from assets_pkg.deploy.interface import interface_of
from assets_pkg.deploy.nim_eval import (
    Drift,
    add_to_results,
    measure_drift,
    recorded_means,
    require_no_drift,
)
from assets_pkg.deploy.served_encoder import ServedEncoder
from assets_pkg.deploy.server_state import ServedModel, smoke_check
from assets_pkg.orchestration.asset_context import AssetContext, asset_context
from assets_pkg.orchestration.history import ARTIFACT_KEY, SETTINGS_KEY, artifact_ref
from assets_pkg.orchestration.metadata import numbers, table
from assets_pkg.orchestration.stage_asset import shown_settings, stage_asset
from assets_pkg.reindex.searched_index import follow_server
from resources.configurable import ArtifactStoreResource, ContainerEngineResource, EncoderResource
from resources.encoders.sample_texts import SAMPLE_TEXTS
from resources.vector_store.base import VectorStoreError
from storage.artifact_store import ArtifactError, ArtifactStore
from storage.artifacts import CHECKPOINTS, Checkpoint, EvalReport, EvalSet, OnnxModel, TensorrtEngine
from storage.digests import digest_json
from storage.paths import EVAL_STAGE, STATE_FOLDER

ALIVE = dg.AssetCheckSpec(
    "server_is_alive",
    asset="running_nim",
    description="The deployed process runs; a sensor repeats this check from then on.",
)
NO_DRIFT = dg.AssetCheckSpec(
    "served_metrics_match",
    asset="nim_eval_metrics",
    description="Every metric through the endpoint is within the recipe's tolerance of the checkpoint's.",
)


def build_assets(profile: Profile) -> list[dg.AssetsDefinition]:
    """The ``deploy`` group."""

    engine = needs_engine(profile.deploy)

    @stage_asset(
        "deploy",
        profile.deploy,
        deps=("onnx_model", "promoted_model", *(("tensorrt_engine",) if engine else ())),
        kinds={"docker" if profile.deploy.backend == "docker" else "python"},
        check_specs=[ALIVE],
    )
    def running_nim(
        context: dg.AssetExecutionContext,
        store: ArtifactStoreResource,
        encoders: EncoderResource,
        containers: ContainerEngineResource,
    ) -> dg.MaterializeResult:
        """The embedding server of the promoted model, with NVIDIA NIM's API; a new one is tested before it replaces the
        old one."""
        with asset_context(context, store) as asset:
            exported = asset.input(OnnxModel, "onnx_model")
            model = asset.input(Checkpoint, "promoted_model")
            for each in (exported, model):
                asset.store.verify(each, anew=profile.deploy.verify_fingerprint)
            with encoders.open(model) as encoder:
                expected = encoder.embed(SAMPLE_TEXTS, "passage")
            name, dtype = profile.deploy.served_model_name, exported.manifest()["dtype"]
            interface = interface_of(profile.deploy.backend)
            check = smoke_check(name, SAMPLE_TEXTS, "passage", expected, dtype, interface)
            built = asset.input(TensorrtEngine, "tensorrt_engine").path if engine else None
            served = ServedModel(exported.folder, model.model, model.version, built)
            folder = asset.store.root / STATE_FOLDER
            anew = asset.is_forced("running_nim")
            state = deploy(served, profile.deploy, folder, check, containers.get, anew, asset.note)
            try:
                follow_server(asset.store)
            except (
                VectorStoreError
            ) as error:  # the server runs; the sensor index_watch reports the difference
                asset.note(f"the alias of the index does not follow the new server: {error}")
            gap = {"gap_s": state.gap_s} if isinstance(state, ContainerState | VllmState) else {}
            version = digest_json([exported.version, state.url])
            return dg.MaterializeResult(
                metadata={
                    "url": dg.MetadataValue.url(f"{state.url}/docs"),
                    "model_digest": model.version,
                    "server": state.handle,
                    "command": dg.MetadataValue.text(shown_command(served, profile.deploy, folder)),
                    "log": dg.MetadataValue.path(state.log),
                    **gap,
                    ARTIFACT_KEY: f"onnx_model/{exported.version}",
                    SETTINGS_KEY: shown_settings(profile.deploy),
                },
                data_version=dg.DataVersion(version),
                check_results=[dg.AssetCheckResult(check_name=ALIVE.name, passed=state.alive())],
            )

    @stage_asset(
        "deploy",
        profile.eval,
        profile.model,
        deps=("running_nim", "promoted_model", "eval_set", "eval_metrics"),
        kinds={"json"},
        check_specs=[NO_DRIFT],
    )
    def nim_eval_metrics(
        context: dg.AssetExecutionContext, store: ArtifactStoreResource, encoders: EncoderResource
    ) -> dg.MaterializeResult:
        """The eval set measured through the embedding server, beside the promoted model's own figures."""
        with asset_context(context, store) as asset:
            # Measured anew by each run: the server may have changed since the last one.
            this_run = {"run": context.run_id}
            report = asset.build(
                EvalReport, lambda folder: _measure(asset, profile, encoders, folder), outside=this_run
            )
            asset.link(f"{EVAL_STAGE}/eval_results.json", report.path / "eval_results.json")
            metadata = report.results()["metadata"]
            rows = [Drift(**row) for row in metadata["nim_drift"]]
            if profile.eval.fail_on_nim_metric_drift:
                require_no_drift(rows)
            worst = max(rows, key=lambda row: abs(row.drift))
            shown = {
                "worst_drift": worst.drift,
                "worst_metric": worst.metric,
                "invalid_vectors": metadata["nim_invalid_vectors"],
            }
            figures = numbers({**report.summary(), **shown})
            result = asset.result(report, {**figures, "drift": table(map(asdict, rows))})
            passed = all(row.within for row in rows)
            check = dg.AssetCheckResult(
                check_name=NO_DRIFT.name, passed=passed, severity=dg.AssetCheckSeverity.WARN
            )
            return result._replace(check_results=[check])

    return [running_nim, nim_eval_metrics]


def _measure(asset: AssetContext, profile: Profile, encoders: EncoderResource, folder: Path) -> None:
    from assets_pkg.evaluation.evaluate import evaluate_retrieval
    from assets_pkg.evaluation.report import write_eval_report

    eval_set, model = asset.input(EvalSet, "eval_set"), asset.input(Checkpoint, "promoted_model")
    server = server_of(asset.store.root / STATE_FOLDER, model.version)
    earlier = asset.input(EvalReport, "eval_metrics").results()
    with encoders.open(model) as encoder:
        name, interface = profile.deploy.served_model_name, interface_of(server.backend)
        served = ServedEncoder(
            server.url, name, encoder.dimensions, f"{model.version}-{server.url}", interface
        )
        scores = evaluate_retrieval(eval_set, served, profile.eval, asset.progress())
        served.close()
        means = recorded_means(earlier, model.version, eval_set.version, profile.eval.k_values)
        expected = means or evaluate_retrieval(eval_set, encoder, profile.eval, asset.progress()).means()
    rows = measure_drift(expected, scores.means())
    column = "vllm" if server.backend == "vllm" else "nim"
    write_eval_report(folder, {column: scores}, eval_set, {column: model.version}, profile.eval)
    add_to_results(folder, earlier, rows, served.invalid)


def server_changed(made: dg.AssetMaterialization, profile: Profile, store: ArtifactStore) -> str | None:
    """Whether the deployed server is gone, answers as another model, was started with other settings or variables, or
    serves files that are damaged."""
    state = read_state(store.root / STATE_FOLDER)
    if state is None or not state.alive():
        return "the server is not running"
    problem = settings_problem(state, profile.deploy)
    if problem is None and not state.serves_its_model():
        return f"the server at {state.url} does not answer as the model that was deployed"
    problem = problem or key_problem(state)
    if problem is not None:
        return f"the server at {state.url} is not as wanted: {problem}"
    return _damage(made, store) if profile.deploy.verify_fingerprint else None


def _damage(made: dg.AssetMaterialization, store: ArtifactStore) -> str | None:
    """What is damaged of the deployed export and its model, every file hashed again."""
    exported, digest = artifact_ref(made), str(made.metadata["model_digest"].value)
    assert exported is not None, "running_nim records no artifact"
    sources = [name for name in CHECKPOINTS if store.has(name, digest)]
    try:
        store.verify(store.get(OnnxModel, *exported), anew=True)
        for name in sources:
            store.verify(store.get(Checkpoint, name, digest), anew=True)
    except ArtifactError as error:
        return str(error)
    return None
