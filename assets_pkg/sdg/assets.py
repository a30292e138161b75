"""The ``sdg`` group: questions about the documents, with the passages that answer them."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import dagster as dg

from assets_pkg.config.profile import Profile
from assets_pkg.orchestration.asset_context import AssetContext, asset_context
from assets_pkg.orchestration.metadata import numbers, table
from assets_pkg.orchestration.stage_asset import accelerator_pool, stage_asset
from assets_pkg.sdg.generators import generate_pairs, outside_digests, question_encoder
from assets_pkg.sdg.own_pairs import load_own_pairs
from resources.configurable import ArtifactStoreResource, ChatModelResource, ComputeResource, EncoderResource
from storage.artifact_store import ArtifactStore
from storage.artifacts import Checkpoint, Corpus, Passages, QAPairs
from storage.formats.qa_records import read_records
from storage.paths import SDG_STAGE

SHOWN = 10
OUTSIDE = "retune/outside"


def build_assets(profile: Profile) -> list[dg.AssetsDefinition]:
    """The ``sdg`` group. With pairs of the user's own the graph begins with ``synthetic_qa`` and needs no corpus."""
    if profile.sdg.sdg_input_path is not None:
        return [_own_pairs_asset(profile, Path(profile.sdg.sdg_input_path).expanduser())]
    return [_generated_asset(profile)]


def _own_pairs_asset(profile: Profile, path: Path) -> dg.AssetsDefinition:
    @stage_asset("sdg", profile.sdg, kinds={"json"})
    def synthetic_qa(
        context: dg.AssetExecutionContext, store: ArtifactStoreResource, compute: ComputeResource
    ) -> dg.MaterializeResult:
        """Your own questions, each with the passage that answers it; nothing is generated."""
        with asset_context(context, store, compute) as asset:
            return _result(
                asset,
                profile,
                lambda folder: load_own_pairs(path, folder, asset.progress()),
                {"source": dg.MetadataValue.path(path)},
            )

    return synthetic_qa


def _generated_asset(profile: Profile) -> dg.AssetsDefinition:
    @stage_asset(
        "sdg",
        profile.sdg,
        profile.model,
        deps=("raw_corpus", "passages", "base_model"),
        kinds={"json", "openai"} if profile.sdg.generator == "llm" else {"json"},
        pool=accelerator_pool(profile.compute, "sdg"),
    )
    def synthetic_qa(
        context: dg.AssetExecutionContext,
        store: ArtifactStoreResource,
        compute: ComputeResource,
        encoders: EncoderResource,
        chat_model: ChatModelResource,
    ) -> dg.MaterializeResult:
        """Questions made from the documents, each with the passage that answers it; by a chat model, or from the
        documents' structure."""
        with asset_context(context, store, compute) as asset:
            corpus = asset.input(Corpus, "raw_corpus")
            passages = asset.input(Passages, "passages")
            base = asset.input(Checkpoint, "base_model")

            def produce(folder: Path) -> None:
                accelerator = encoders.accelerator.get
                with question_encoder(
                    profile.sdg, asset.store, accelerator, lambda: encoders.open(base)
                ) as encoder:
                    generate_pairs(
                        corpus, passages, profile.sdg, chat_model.get(), encoder, folder, asset.progress()
                    )

            return _result(asset, profile, produce, {"generator": profile.sdg.generator})

    return synthetic_qa


def _result(
    asset: AssetContext, profile: Profile, produce: Any, shown: dict[str, Any]
) -> dg.MaterializeResult:
    outside = outside_digests(profile.sdg)
    pairs = asset.build(QAPairs, produce, outside=outside, anew=profile.sdg.resume == "never")
    for name in ("qa_records.jsonl", "generation_result.json"):
        if (pairs.path / name).exists():
            asset.link(f"{SDG_STAGE}/{name}", pairs.path / name)
    sample = table(islice(_sample(pairs), SHOWN))
    return asset.result(pairs, {**numbers(pairs.summary()), OUTSIDE: outside, "sample": sample, **shown})


def _sample(pairs: QAPairs) -> Iterator[dict[str, Any]]:
    for record in read_records(pairs.records):
        # A record with fewer evaluations is counted and listed when its pairs are filtered.
        scored = zip(record.deduplicated_qa_pairs, record.qa_evaluations.evaluations, strict=False)
        for pair, evaluation in islice(scored, 1):
            yield {
                "document": record.file_name[0],
                "question": pair.question,
                "answer": pair.answer,
                "score": evaluation.overall.score,
            }


def pair_files_changed(made: dg.AssetMaterialization, profile: Profile, _: ArtifactStore) -> str | None:
    """Whether the files that ``synthetic_qa`` read (own pairs, prompts) changed."""
    if made.metadata[OUTSIDE].value == outside_digests(profile.sdg):
        return None
    return f"{profile.sdg.sdg_input_path or profile.sdg.prompts_path} changed"
