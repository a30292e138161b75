"""Pairs of images and texts, captions of the images, and how well models bring the partners together."""

import os

import dagster as dg

from assets_pkg.config.profile import Profile
from assets_pkg.config.sections.evaluation import IntervalSettings
from assets_pkg.config.sections.image_text import CaptionSettings, PairSettings, ScoreSettings
from assets_pkg.image_text.captions import caption_endpoint, write_captions
from assets_pkg.image_text.pairs import Pair, source_digest, write_pairs
from assets_pkg.image_text.report import write_report
from assets_pkg.image_text.scores import score_models, split_models
from assets_pkg.orchestration.asset_context import accelerator_pool, asset_context, stage_asset
from assets_pkg.orchestration.metadata import numbers, picture, table
from resources.chat_model import ChatModel
from resources.configurable import AcceleratorResource, ArtifactStoreResource, ComputeResource
from resources.encoders.factory import Availability, look_up, open_encoder, opener
from resources.models.registry import load_registry
from storage.artifact_store import ArtifactStore
from storage.artifacts import Captions, ImageTextPairs, ImageTextReport, ImageTextScores
from storage.digests import digest_json
from storage.paths import IMAGE_TEXT_REPORT, IMAGE_TEXT_RESULTS

SHOWN = 8
SOURCE = "source_digest"
"""Of the images and texts that were read: what a plan compares with the files."""

ANSWERS = ".cache/answers.sqlite"


def build_assets(profile: Profile) -> list[dg.AssetsDefinition]:
    """The ``image_text`` group."""
    settings = profile.image_text
    of_pairs: PairSettings = settings.part(PairSettings)
    of_captions: CaptionSettings = settings.part(CaptionSettings)
    of_scores: ScoreSettings = settings.part(ScoreSettings)
    intervals: IntervalSettings = profile.eval.part(IntervalSettings)

    @stage_asset("image_text", of_pairs, kinds={"parquet"})
    def image_text_pairs(
        context: dg.AssetExecutionContext, store: ArtifactStoreResource, compute: ComputeResource
    ) -> dg.MaterializeResult:
        """Images and the texts that belong to them."""
        with asset_context(context, store, compute) as asset:
            digest = source_digest(of_pairs.pairs)
            pairs = asset.build(
                ImageTextPairs,
                lambda folder: write_pairs(of_pairs, folder, asset.progress()),
                outside={"source": digest},
            )
            sample = table({"id": pair.pair_id, "text": pair.text} for pair in load_pairs(pairs)[:SHOWN])
            return asset.result(pairs, {SOURCE: digest, **numbers(pairs.summary()), "sample": sample})

    @stage_asset("image_text", of_captions, kinds={"openai"}, deps=("image_text_pairs",))
    def captions(
        context: dg.AssetExecutionContext, store: ArtifactStoreResource, compute: ComputeResource
    ) -> dg.MaterializeResult:
        """The images told in words: by a vision model behind an endpoint, or by the nearest named colour."""
        with asset_context(context, store, compute) as asset:
            pairs = load_pairs(asset.input(ImageTextPairs, "image_text_pairs"))
            endpoint = caption_endpoint(of_captions, profile.sdg, asset.store.root / ANSWERS)
            chat = ChatModel(endpoint, os.environ.get(endpoint.api_key_env))
            made = asset.build(
                Captions, lambda folder: write_captions(pairs, of_captions, chat, folder, asset.progress())
            )
            rows = list(made.captions().items())[:SHOWN]
            sample = table({"id": name, "caption": text or ""} for name, text in rows)
            return asset.result(made, {**numbers(made.summary()), "sample": sample})

    @stage_asset(
        "image_text",
        of_scores,
        kinds={"json"},
        deps=("image_text_pairs", "captions"),
        pool=accelerator_pool(profile.compute, "image_text"),
    )
    def image_text_scores(
        context: dg.AssetExecutionContext,
        store: ArtifactStoreResource,
        compute: ComputeResource,
        accelerator: AcceleratorResource,
    ) -> dg.MaterializeResult:
        """Every model that is here, on images and on captions, between floors and ceiling."""
        with asset_context(context, store, compute) as asset:
            pairs = load_pairs(asset.input(ImageTextPairs, "image_text_pairs"))
            told = asset.input(Captions, "captions").captions()
            registry = load_registry()
            found, skipped = split_models([look_up(registry, name) for name in of_scores.image_text_models])
            for name, reason in skipped.items():
                context.log.warning(f"model {name} is skipped: {reason}")
            models = {
                model.name: opener(model, asset.store, accelerator.get, **profile.sdg.consent())
                for model in found
            }
            scores = asset.build(
                ImageTextScores,
                lambda folder: score_models(
                    pairs, told, models, skipped, of_scores, folder, asset.progress()
                ),
                outside={"models": digest_json({model.name: _identity(model) for model in found})},
            )
            asset.link(IMAGE_TEXT_RESULTS, scores.path / "benchmark_results.tsv")
            pictures = {
                path.stem: picture(path) for path in sorted((scores.path / "figs").glob("*.png"))[:SHOWN]
            }
            missing = [{"model": name, "reason": reason} for name, reason in scores.skipped().items()]
            return asset.result(scores, {**numbers(scores.summary()), "skipped": table(missing), **pictures})

    @stage_asset("image_text", of_scores, intervals, kinds={"json"}, deps=("image_text_scores", "captions"))
    def image_text_report(
        context: dg.AssetExecutionContext, store: ArtifactStoreResource, compute: ComputeResource
    ) -> dg.MaterializeResult:
        """Intervals, images against captions on the same pairs, what is above the floor, and what it cost."""
        with asset_context(context, store, compute) as asset:
            scores = asset.input(ImageTextScores, "image_text_scores")
            told = asset.input(Captions, "captions")
            report = asset.build(
                ImageTextReport,
                lambda folder: write_report(scores, told, intervals, of_scores.recall_at, folder),
            )
            asset.link(IMAGE_TEXT_REPORT, report.path)
            shown = {
                "report": dg.MetadataValue.md((report.path / "report.md").read_text("utf-8")),
                "mrr": picture(report.path / "mrr.png"),
            }
            return asset.result(report, {**numbers(report.summary()), **shown})

    return [image_text_pairs, captions, image_text_scores, image_text_report]


def load_pairs(made: ImageTextPairs) -> list[Pair]:
    """The pairs of an artifact, in their order."""
    return [
        Pair(row["pair_id"], row["text"], row["image"], tuple(row["rgb"]) if row["rgb"] else None)
        for row in made.rows()
    ]


def _identity(model: Availability) -> str:
    """Digest of a model's weights or service, and of how it is run; nothing is loaded."""
    encoder = open_encoder(model)
    try:
        return digest_json([encoder.identity("query"), encoder.identity("passage")])
    finally:
        encoder.close()


def pairs_changed(made: dg.AssetMaterialization, profile: Profile, _: ArtifactStore) -> str | None:
    """Whether the images and texts that ``image_text_pairs`` read changed."""
    recorded = made.metadata.get(SOURCE)
    if recorded is not None and recorded.value == source_digest(profile.image_text.pairs):
        return None
    return f"{profile.image_text.pairs} changed"
