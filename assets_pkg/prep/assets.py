"""The ``prep`` group: eval set, training set, and training set with hard negatives."""

from pathlib import Path

import dagster as dg

from assets_pkg.config.profile import Profile
from assets_pkg.config.sections.prep import (
    EvalSetSettings,
    MiningSettings,
    SplitSettings,
    TrainingSourceSettings,
)
from assets_pkg.orchestration.asset_context import AssetContext, asset_context
from assets_pkg.orchestration.history import data_version
from assets_pkg.orchestration.metadata import numbers, picture, table
from assets_pkg.orchestration.run_observer import run_observer
from assets_pkg.orchestration.stage_asset import accelerator_pool, stage_asset
from assets_pkg.prep.asset_checks import build_checks
from assets_pkg.prep.eval_set import freeze, frozen_eval_set, import_beir, read_fixed_eval_set
from assets_pkg.prep.input_files import FINGERPRINT, eval_set_fingerprint, training_fingerprint
from assets_pkg.prep.mining import mine_hard_negatives
from assets_pkg.prep.training_set import (
    describe_rejections,
    import_training_file,
    write_eval_set,
    write_training_set,
)
from assets_pkg.retrieval.parallel_search import search_devices
from assets_pkg.retrieval.teachers import open_teacher
from resources.configurable import ArtifactStoreResource, ComputeResource, EncoderResource
from storage.artifact_store import ArtifactStore
from storage.artifacts import Checkpoint, EvalSet, MinedTrainSet, QAPairs, TrainingSet
from storage.embedding_cache import EmbeddingCache
from storage.formats.eval_origin import MODEL, OWN, STRUCTURE
from storage.paths import DATA_PREP_STAGE, EMBEDDING_CACHE


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
        """The questions that the model learns from; none of them is in the eval set."""
        with asset_context(context, store, compute) as asset:
            eval_set = asset.input(EvalSet, "eval_set")
            fixed = bool(profile.prep.eval_data_path) or frozen_eval_set(asset.store) is not None

            def produce(folder: Path) -> None:
                if source.train_input_file:
                    import_training_file(Path(source.train_input_file), read_fixed_eval_set(eval_set), folder)
                    return
                pairs = asset.input(QAPairs, "synthetic_qa")
                held_out = read_fixed_eval_set(eval_set) if fixed else None
                write_training_set(pairs, split, folder, asset.progress(), held_out)

            fingerprint = training_fingerprint(profile.prep)
            outside = {"files": fingerprint, "eval_set": "fixed" if fixed else "split"}
            made = asset.build(TrainingSet, produce, outside=outside)
            _link(asset, made.path, ("train.json", "val.json", "corpus", "rejected.jsonl"))
            rejected = made.summary().get("rejected_examples")
            shown = {"rejected_pairs": table(rejected)} if rejected else {}
            if rejected and asset.points:
                run_observer().note(describe_rejections(made))
            return asset.result(made, {**numbers(made.summary()), **shown, FINGERPRINT: fingerprint})

    return training_set


def _eval_set(profile: Profile) -> dg.AssetsDefinition:
    split: SplitSettings = profile.prep.part(SplitSettings)
    settings: EvalSetSettings = profile.prep.part(EvalSetSettings)
    deps = () if settings.eval_data_path else ("synthetic_qa",)

    @stage_asset("prep", split, settings, deps=deps, kinds={"json"}, logic="2")
    def eval_set(
        context: dg.AssetExecutionContext, store: ArtifactStoreResource, compute: ComputeResource
    ) -> dg.MaterializeResult:
        """The questions that models are measured with, about documents that training never sees."""
        with asset_context(context, store, compute) as asset:
            fingerprint = eval_set_fingerprint(profile.prep, asset.store)

            def produce(folder: Path) -> None:
                if settings.eval_data_path:
                    import_beir(Path(settings.eval_data_path), folder)
                    return
                pairs, use_group_id = asset.input(QAPairs, "synthetic_qa"), settings.use_group_id_in_eval
                origin = _origin_of_pairs(profile, pairs)
                write_eval_set(
                    pairs, split, folder, asset.progress(), use_group_id=use_group_id, origin=origin
                )

            made = frozen_eval_set(asset.store) or asset.build(
                EvalSet, produce, outside={"files": fingerprint}
            )
            if settings.freeze_eval_set:
                freeze(asset.store, made)
            frozen = frozen_eval_set(asset.store) is not None
            _link(asset, made.path, ("eval_beir",))
            figures = {**made.summary(), "frozen": frozen}
            fingerprint = eval_set_fingerprint(profile.prep, asset.store)
            return asset.result(made, {**numbers(figures), FINGERPRINT: fingerprint})

    return eval_set


def _origin_of_pairs(profile: Profile, pairs: QAPairs) -> dict[str, str]:
    """Who wrote the questions, and about which documents, for those who read a measurement."""
    if profile.sdg.sdg_input_path is not None:
        return {"questions_by": OWN, "questions_from": profile.sdg.sdg_input_path}
    about = {"corpus": profile.corpus.corpus_dir}
    if profile.sdg.generator == "offline":
        return {"questions_by": STRUCTURE, **about}
    cost = pairs.summary().get("cost")
    spent = {} if cost is None else {"questions_cost": f"{cost:,.2f} (currency of sdg.input_price)"}
    return {"questions_by": MODEL, "questions_from": profile.sdg.qa_generation_model, **about, **spent}


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
        """The training questions, each with hard negatives: passages near to the question that do not answer it."""
        with asset_context(context, store, compute) as asset:
            training = asset.input(TrainingSet, "training_set")
            base = asset.input(Checkpoint, "base_model")

            def produce(folder: Path) -> None:
                devices = search_devices(encoders.accelerator.get().device, mining.mining_processes)
                size = mining.mining_batch_size
                how = {"devices": devices, "make_shards": compute.workers(encoders.recipe(base, size))}
                cache = EmbeddingCache(asset.store.root / EMBEDDING_CACHE)
                with encoders.open(base, batch_size=size) as encoder:
                    how["open_teacher"] = lambda passages: open_teacher(
                        mining.hard_neg_teacher, passages, encoder, encoders.accelerator.get(), cache
                    )
                    mine_hard_negatives(training, encoder, mining, folder, asset.progress(), **how)

            made = asset.build(MinedTrainSet, produce)
            _link(asset, made.path, ("train_mined.automodel.json", "train_mined.automodel_unrolled.json"))
            drawn = made.path / "scores.png"
            pictures = {"scores": picture(drawn)} if drawn.exists() else {}
            examples = table(made.summary()["examples"])
            return asset.result(made, {**numbers(made.summary()), **pictures, "examples": examples})

    return mined_train_set


def _link(asset: AssetContext, folder: Path, names: tuple[str, ...]) -> None:
    for name in names:
        asset.link(f"{DATA_PREP_STAGE}/{name}", folder / name)


def training_files_changed(made: dg.AssetMaterialization, profile: Profile, _: ArtifactStore) -> str | None:
    """Whether the files that ``training_set`` read changed."""
    if training_fingerprint(profile.prep) == made.metadata[FINGERPRINT].value:
        return None
    return "the files that prep.train_input_file or prep.groups_json name changed"


def eval_set_changed(made: dg.AssetMaterialization, profile: Profile, store: ArtifactStore) -> str | None:
    """Whether another eval set is frozen now, or the files that ``eval_set`` read changed."""
    frozen = frozen_eval_set(store)
    if frozen is not None and frozen.version == data_version(made):
        return None
    if eval_set_fingerprint(profile.prep, store) == made.metadata[FINGERPRINT].value:
        return None
    if frozen is not None:
        return f"another eval set was frozen: {frozen.version}"
    return "the frozen eval set was released, or files of prep.eval_data_path or prep.groups_json changed"
