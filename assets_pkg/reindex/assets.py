"""The corpus through the promoted model, and the index that search reads: one step, so never mixed."""

from collections.abc import Iterator
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path

import dagster as dg

from assets_pkg.door import GPU_POOL, OWNERS, SETTINGS_KEY, code_version, open_door, shown_settings
from assets_pkg.profile import Profile
from assets_pkg.reindex.embeddings import embed_passages
from assets_pkg.reindex.index import build_index, open_index
from assets_pkg.reindex.searcher import INDEX_LINK
from assets_pkg.reindex.verify import verify_index
from assets_pkg.showing import numbers
from resources.artifacts import ArtifactStoreResource
from resources.compute.resource import ComputeResource
from resources.encoders.resource import EncoderResource
from storage.artifacts import Checkpoint, CorpusEmbeddings, Passages, VectorIndex

CHECK = dg.AssetCheckSpec(
    "index_is_fit",
    asset="vector_index",
    description="Every passage is there with a sound vector and is found; search switches only then.",
    blocking=True,
)


def build_assets(profile: Profile) -> list[dg.AssetsDefinition]:
    """The ``reindex`` group."""
    spec = {
        "deps": ["promoted_model", "passages"],
        "group_name": "reindex",
        "code_version": code_version("1", profile.reindex, profile.model),
        "owners": OWNERS,
        "metadata": {SETTINGS_KEY: shown_settings(profile.reindex, profile.model)},
    }

    freshness = dg.FreshnessPolicy.time_window(
        fail_window=timedelta(hours=profile.automation.index_max_age_hours)
    )

    # One step and identical deps: a model promoted meanwhile makes both stale, never one of them.
    @dg.multi_asset(
        specs=[
            dg.AssetSpec(
                "corpus_embeddings",
                kinds={"parquet"},
                description="Every passage's vector by the promoted model.",
                **spec,
            ),
            dg.AssetSpec(
                "vector_index",
                kinds={"lancedb"},
                description="The index that search reads. A new one is built beside the old, which serves until the "
                "new one has passed its check.",
                freshness_policy=freshness,
                **spec,
            ),
        ],
        check_specs=[CHECK],
        pool=GPU_POOL,
    )
    def embed_and_index(
        context: dg.AssetExecutionContext,
        store: ArtifactStoreResource,
        compute: ComputeResource,
        encoders: EncoderResource,
    ) -> Iterator[dg.MaterializeResult | dg.AssetCheckResult]:
        """Embed the corpus with the promoted model and index it; both results appear together, at the end."""
        with open_door(context, store, compute) as door:
            passages = door.input(Passages, "passages")
            model = door.input(Checkpoint, "promoted_model")

            def embed(folder: Path) -> None:
                workers = compute.workers(encoders.recipe(model))
                with encoders.open(model) as encoder:
                    embed_passages(passages, model, encoder, folder, door.progress(), workers)

            embeddings = door.build(CorpusEmbeddings, embed, asset="corpus_embeddings")
            index = door.build(
                VectorIndex,
                lambda folder: build_index(passages, embeddings, profile.reindex, folder),
                asset="vector_index",
            )
            check = _verify(index, passages, embeddings, profile.reindex.min_index_recall)
            if check.passed and door.points:
                door.link(INDEX_LINK, index.path)
                open_index(index.path, index.describe()["place"]).activate()
            yield door.result(embeddings, numbers(embeddings.describe()), asset="corpus_embeddings")
            yield door.result(index, numbers(index.describe()), asset="vector_index")
            yield check

    return [embed_and_index]


def _verify(
    index: VectorIndex, passages: Passages, embeddings: CorpusEmbeddings, min_recall: float
) -> dg.AssetCheckResult:
    described = index.describe()
    opened = open_index(index.path, described["place"])
    verdict = verify_index(opened, passages, embeddings, described["dimensions"])
    problems = verdict.problems(min_recall)
    return dg.AssetCheckResult(
        check_name=CHECK.name,
        asset_key=CHECK.asset_key,
        passed=not problems,
        metadata={**numbers(asdict(verdict)), "problems": "; ".join(problems) or "(none)"},
    )
