"""The exported model as a running embedding server."""

import dagster as dg

from assets_pkg.deploy.server_process import deploy_process
from assets_pkg.deploy.smoke import smoke_check
from assets_pkg.door import ARTIFACT_KEY, SETTINGS_KEY, open_door, shown_settings, stage_asset
from assets_pkg.profile import Profile
from resources.artifacts import ArtifactStoreResource
from resources.encoders.resource import EncoderResource
from storage.artifacts import Checkpoint, OnnxModel
from storage.digests import digest_json

STATE_FOLDER = "stage5_deploy"
ALIVE = dg.AssetCheckSpec(
    "server_is_alive",
    asset="running_nim",
    description="The deployed process runs; watched by a sensor from then on.",
)
SMOKE_TEXTS = (
    "a",
    "How is the pressure in a sealed vessel measured?",
    "The quick brown fox jumps over the lazy dog. " * 12,
    "naïve café, 東京, 12.5 °C — punctuation and other scripts",
)


def build_assets(profile: Profile) -> list[dg.AssetsDefinition]:
    """The ``deploy`` group."""

    @stage_asset(
        "deploy",
        profile.deploy,
        deps=("onnx_model", "promoted_model"),
        kinds={"docker"},
        check_specs=[ALIVE],
    )
    def running_nim(
        context: dg.AssetExecutionContext, store: ArtifactStoreResource, encoders: EncoderResource
    ) -> dg.MaterializeResult:
        """A NIM-compatible server of the promoted model, proven before it takes over the port."""
        with open_door(context, store) as door:
            exported = door.input(OnnxModel, "onnx_model")
            model = door.input(Checkpoint, "promoted_model")
            with encoders.open(model) as encoder:
                expected = encoder.embed(SMOKE_TEXTS, "passage")
            check = smoke_check(profile.deploy.served_model_name, SMOKE_TEXTS, "passage", expected)
            state = deploy_process(
                exported.folder, model.version, profile.deploy, door.store.root / STATE_FOLDER, check
            )
            version = digest_json([exported.version, state.url])
            return dg.MaterializeResult(
                metadata={
                    ARTIFACT_KEY: f"onnx_model/{exported.version}",
                    SETTINGS_KEY: shown_settings(profile.deploy),
                    "url": dg.MetadataValue.url(f"{state.url}/docs"),
                    "model_digest": model.version,
                    "pid": state.pid,
                    "log": dg.MetadataValue.path(state.log),
                },
                data_version=dg.DataVersion(version),
                check_results=[dg.AssetCheckResult(check_name=ALIVE.name, passed=state.alive())],
            )

    return [running_nim]
