"""Training set, fixed exam, and training set with hard negatives."""

from pathlib import Path

import dagster as dg

from assets_pkg.door import Door, Inputs, open_door, stage_asset
from assets_pkg.prep.datasets import write_eval_set, write_training_set
from assets_pkg.prep.leakage import find_leaks
from assets_pkg.prep.mining import mine_hard_negatives
from assets_pkg.profile import MiningSettings, Profile, SplitSettings
from assets_pkg.showing import numbers, picture, table
from resources.artifacts import ArtifactStoreResource
from resources.encoders.resource import EncoderResource
from storage.artifacts import Checkpoint, EvalSet, MinedTrainSet, QAPairs, TrainingSet

STAGE = "stage1_data_prep"


def build_assets(profile: Profile) -> list[dg.AssetsDefinition | dg.AssetChecksDefinition]:
    """The ``prep`` group."""
    split: SplitSettings = profile.prep.part(SplitSettings)
    mining: MiningSettings = profile.prep.part(MiningSettings)

    @stage_asset("prep", split, deps=("synthetic_qa",), kinds={"json"})
    def training_set(context: dg.AssetExecutionContext, store: ArtifactStoreResource) -> dg.MaterializeResult:
        """The pairs of the training and validation documents, in the recipe's retriever format."""
        with open_door(context, store) as door:
            pairs = door.input(QAPairs, "synthetic_qa")
            made = door.build(
                TrainingSet, lambda folder: write_training_set(pairs, split, folder, door.progress())
            )
            _link(door, made.path, ("train.json", "val.json", "corpus"))
            return door.result(made, numbers(made.summary()))

    @stage_asset("prep", split, deps=("synthetic_qa",), kinds={"json"})
    def eval_set(context: dg.AssetExecutionContext, store: ArtifactStoreResource) -> dg.MaterializeResult:
        """The exam: questions about documents that training never sees, as a BEIR folder."""
        with open_door(context, store) as door:
            pairs = door.input(QAPairs, "synthetic_qa")
            made = door.build(EvalSet, lambda folder: write_eval_set(pairs, split, folder, door.progress()))
            _link(door, made.path, ("eval_beir",))
            return door.result(made, numbers(made.summary()))

    @stage_asset(
        "prep", mining, profile.model, deps=("training_set", "base_model"), accelerated=True, kinds={"json"}
    )
    def mined_train_set(
        context: dg.AssetExecutionContext, store: ArtifactStoreResource, encoders: EncoderResource
    ) -> dg.MaterializeResult:
        """The training set with hard negatives that the margin does not suspect of being positives."""
        with open_door(context, store) as door:
            training = door.input(TrainingSet, "training_set")
            base = door.input(Checkpoint, "base_model")

            def produce(folder: Path) -> None:
                with encoders.open(base) as encoder:
                    mine_hard_negatives(training, encoder, mining, folder, door.progress())

            made = door.build(MinedTrainSet, produce)
            _link(door, made.path, ("train_mined.automodel.json", "train_mined.automodel_unrolled.json"))
            return door.result(
                made,
                {
                    **numbers(made.summary()),
                    "scores": picture(made.path / "scores.png"),
                    "examples": table(made.summary()["examples"]),
                },
            )

    @dg.asset_check(asset="eval_set", additional_deps=["training_set"], blocking=True)
    def no_leakage(
        context: dg.AssetCheckExecutionContext, store: ArtifactStoreResource
    ) -> dg.AssetCheckResult:
        """No question and no positive passage of the exam occurs in training."""
        inputs = Inputs(context.instance, store)
        leaks = find_leaks(inputs.input(TrainingSet, "training_set"), inputs.input(EvalSet, "eval_set"))
        return dg.AssetCheckResult(
            passed=leaks.total == 0,
            metadata={
                "questions": leaks.questions,
                "passages": leaks.passages,
                "samples": table(leaks.samples),
            },
        )

    return [training_set, eval_set, mined_train_set, no_leakage]


def _link(door: Door, folder: Path, names: tuple[str, ...]) -> None:
    for name in names:
        door.store.link(f"{STAGE}/{name}", folder / name)
