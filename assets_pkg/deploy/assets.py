"""The exported model as a running embedding server."""

import dagster as dg

from assets_pkg.deploy.server_process import deploy_process
from assets_pkg.deploy.smoke import smoke_check
from assets_pkg.door import ARTIFACT_KEY, open_door, stage_asset
from assets_pkg.profile import Profile
from resources.artifacts import ArtifactStoreResource
from resources.encoders.resource import EncoderResource
from storage.artifacts import Checkpoint, OnnxModel, Passages
from storage.digests import digest_json

STATE_FOLDER = "stage5_deploy"
SMOKE_TEXTS = 8


def build_assets(profile: Profile) -> list[dg.AssetsDefinition]:
    """The ``deploy`` group."""
    deps = ("onnx_model", "promoted_model", "passages")

    @stage_asset("deploy", profile.deploy, deps=deps, kinds={"docker"})
    def running_nim(
        context: dg.AssetExecutionContext, store: ArtifactStoreResource, encoders: EncoderResource
    ) -> dg.MaterializeResult:
        """A NIM-compatible server of the promoted model, proven before it takes over the port."""
        with open_door(context, store) as door:
            exported = door.input(OnnxModel, "onnx_model")
            model = door.input(Checkpoint, "promoted_model")
            texts = [passage.text for passage in door.input(Passages, "passages").sample(SMOKE_TEXTS)]
            with encoders.open(model) as encoder:
                expected = encoder.embed(texts, "passage")
            check = smoke_check(profile.deploy.served_model_name, texts, "passage", expected)
            state = deploy_process(
                exported.folder, model.version, profile.deploy, door.store.root / STATE_FOLDER, check
            )
            version = digest_json([exported.version, state.url])
            return dg.MaterializeResult(
                metadata={
                    ARTIFACT_KEY: f"onnx_model/{exported.version}",
                    "url": dg.MetadataValue.url(f"{state.url}/docs"),
                    "model_digest": model.version,
                    "pid": state.pid,
                    "log": dg.MetadataValue.path(state.log),
                },
                data_version=dg.DataVersion(version),
            )

    return [running_nim]
