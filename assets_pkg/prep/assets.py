"""Training set, fixed exam, and training set with hard negatives."""

from pathlib import Path

import dagster as dg

from assets_pkg.door import Door, accelerator_pool, open_door, stage_asset
from assets_pkg.prep.asset_checks import build_checks
from assets_pkg.prep.datasets import told_of_rejections, write_eval_set, write_training_set
from assets_pkg.prep.exam import freeze, frozen_exam, read_fixed_exam, take_exam
from assets_pkg.prep.given import take_training_file
from assets_pkg.prep.mining import mine_hard_negatives
from assets_pkg.prep.outside import FINGERPRINT, exam_fingerprint, training_fingerprint
from assets_pkg.prep.parallel_search import search_devices
from assets_pkg.prep.settings import ExamSettings, MiningSettings, SplitSettings, TrainingSourceSettings
from assets_pkg.profile import Profile
from assets_pkg.showing import numbers, picture, table
from assets_pkg.watch import watcher
from resources.artifacts import ArtifactStoreResource
from resources.compute.resource import ComputeResource
from resources.encoders.resource import EncoderResource
from storage.artifacts import Checkpoint, EvalSet, MinedTrainSet, QAPairs, TrainingSet

STAGE = "stage1_data_prep"


def build_assets(profile: Profile) -> list[dg.AssetsDefinition | dg.AssetChecksDefinition]:
    """The ``prep`` group."""
    return [_eval_set(profile), _training_set(profile), _mined_train_set(profile), *build_checks(profile)]


def _training_set(profile: Profile) -> dg.AssetsDefinition:
    split: SplitSettings = profile.prep.part(SplitSettings)
    source: TrainingSourceSettings = profile.prep.part(TrainingSourceSettings)
    deps = ("eval_set",) if source.train_input_file else ("synthetic_qa", "eval_set")

    @stage_asset("prep", split, source, deps=deps, kinds={"json"}, logic="3")
    def training_set(
        context: dg.AssetExecutionContext, store: ArtifactStoreResource, compute: ComputeResource
    ) -> dg.MaterializeResult:
        """The questions to train and validate on, in the recipe's retriever format; nothing of the exam."""
        with open_door(context, store, compute) as door:
            exam = door.input(EvalSet, "eval_set")
            fixed = bool(profile.prep.eval_data_path) or frozen_exam(door.store) is not None

            def produce(folder: Path) -> None:
                if source.train_input_file:
                    take_training_file(Path(source.train_input_file), read_fixed_exam(exam), folder)
                    return
                pairs = door.input(QAPairs, "synthetic_qa")
                apart = read_fixed_exam(exam) if fixed else None
                write_training_set(pairs, split, folder, door.progress(), apart)

            fingerprint = training_fingerprint(profile.prep)
            outside = {"files": fingerprint, "exam": "fixed" if fixed else "split"}
            made = door.build(TrainingSet, produce, outside=outside)
            _link(door, made.path, ("train.json", "val.json", "corpus", "rejected.jsonl"))
            rejected = made.summary().get("rejected_examples")
            shown = {"rejected_pairs": table(rejected)} if rejected else {}
            if rejected and door.points:
                watcher().note(told_of_rejections(made))
            return door.result(made, {**numbers(made.summary()), **shown, FINGERPRINT: fingerprint})

    return training_set


def _eval_set(profile: Profile) -> dg.AssetsDefinition:
    split: SplitSettings = profile.prep.part(SplitSettings)
    exam: ExamSettings = profile.prep.part(ExamSettings)
    deps = () if exam.eval_data_path else ("synthetic_qa",)

    @stage_asset("prep", split, exam, deps=deps, kinds={"json"}, logic="2")
    def eval_set(
        context: dg.AssetExecutionContext, store: ArtifactStoreResource, compute: ComputeResource
    ) -> dg.MaterializeResult:
        """The exam, as a BEIR folder: questions about documents that training never sees; once frozen, always
        the same."""
        with open_door(context, store, compute) as door:
            fingerprint = exam_fingerprint(profile.prep, door.store)

            def produce(folder: Path) -> None:
                if exam.eval_data_path:
                    take_exam(Path(exam.eval_data_path), folder)
                    return
                pairs, named = door.input(QAPairs, "synthetic_qa"), exam.use_group_id_in_eval
                write_eval_set(pairs, split, folder, door.progress(), use_group_id=named)

            made = frozen_exam(door.store) or door.build(EvalSet, produce, outside={"files": fingerprint})
            if exam.freeze_eval_set:
                freeze(door.store, made)
            frozen = frozen_exam(door.store) is not None
            _link(door, made.path, ("eval_beir",))
            figures = {**made.summary(), "frozen": frozen}
            fingerprint = exam_fingerprint(profile.prep, door.store)
            return door.result(made, {**numbers(figures), FINGERPRINT: fingerprint})

    return eval_set


def _mined_train_set(profile: Profile) -> dg.AssetsDefinition:
    mining: MiningSettings = profile.prep.part(MiningSettings)

    @stage_asset(
        "prep",
        mining,
        profile.model,
        deps=("training_set", "base_model"),
        pool=accelerator_pool(profile.compute, "prep"),
        kinds={"json"},
    )
    def mined_train_set(
        context: dg.AssetExecutionContext,
        store: ArtifactStoreResource,
        compute: ComputeResource,
        encoders: EncoderResource,
    ) -> dg.MaterializeResult:
        """The training set with hard negatives that the margin does not suspect of being positives."""
        with open_door(context, store, compute) as door:
            training = door.input(TrainingSet, "training_set")
            base = door.input(Checkpoint, "base_model")

            def produce(folder: Path) -> None:
                devices = search_devices(encoders.accelerator.get().device, mining.mining_processes)
                size = mining.mining_batch_size
                how = {"devices": devices, "make_shards": compute.workers(encoders.recipe(base, size))}
                with encoders.open(base, batch_size=size) as encoder:
                    mine_hard_negatives(training, encoder, mining, folder, door.progress(), **how)

            made = door.build(MinedTrainSet, produce)
            _link(door, made.path, ("train_mined.automodel.json", "train_mined.automodel_unrolled.json"))
            drawn = made.path / "scores.png"
            pictures = {"scores": picture(drawn)} if drawn.exists() else {}
            examples = table(made.summary()["examples"])
            return door.result(made, {**numbers(made.summary()), **pictures, "examples": examples})

    return mined_train_set


def _link(door: Door, folder: Path, names: tuple[str, ...]) -> None:
    for name in names:
        door.link(f"{STAGE}/{name}", folder / name)
