"""The assets of the ``image_text`` group: image-text pairs, captions, scores of models, and the report."""

import dagster as dg

from assets_pkg.config.profile import Profile
from assets_pkg.config.sections.evaluation import IntervalSettings
from assets_pkg.config.sections.image_text import CaptionSettings, PairSettings, ScoreSettings
from assets_pkg.image_text.captions import captioning_model, write_captions
from assets_pkg.image_text.pairs import Pair, source_digest, write_pairs
from assets_pkg.image_text.report import write_report
from assets_pkg.image_text.scores import score_models, split_models, truncating, with_precision
from assets_pkg.orchestration.asset_context import asset_context
from assets_pkg.orchestration.metadata import numbers, picture, table
from assets_pkg.orchestration.stage_asset import accelerator_pool, stage_asset
from resources.configurable import (
    AcceleratorResource,
    ArtifactStoreResource,
    ChatModelResource,
    ComputeResource,
)
from resources.encoders.factory import Availability, look_up, open_encoder, opener
from resources.models.registry import load_registry
from storage.artifact_store import ArtifactStore
from storage.artifacts import Captions, ImageTextPairs, ImageTextReport, ImageTextScores
from storage.digests import digest_json
from storage.paths import IMAGE_TEXT_REPORT, IMAGE_TEXT_RESULTS

SHOWN = 8
SOURCE = "source_digest"
"""Metadata key: digest of the images and texts that were read, which a plan compares with the files."""


def build_assets(profile: Profile) -> list[dg.AssetsDefinition]:
    """The assets of the group."""
    settings = profile.image_text
    of_pairs: PairSettings = settings.part(PairSettings)
    of_captions: CaptionSettings = settings.part(CaptionSettings)
    of_scores: ScoreSettings = settings.part(ScoreSettings)
    intervals: IntervalSettings = profile.eval.part(IntervalSettings)

    @stage_asset("image_text", of_pairs, kinds={"parquet"})
    def image_text_pairs(
        context: dg.AssetExecutionContext, store: ArtifactStoreResource, compute: ComputeResource
    ) -> dg.MaterializeResult:
        """Images, each with the text that belongs to it."""
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
        context: dg.AssetExecutionContext,
        store: ArtifactStoreResource,
        compute: ComputeResource,
        chat_model: ChatModelResource,
    ) -> dg.MaterializeResult:
        """A caption of every image, by a vision model or, for plain colours, by the name of the nearest colour."""
        with asset_context(context, store, compute) as asset:
            pairs = load_pairs(asset.input(ImageTextPairs, "image_text_pairs"))
            chat = captioning_model(of_captions, chat_model.get())
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
        """How well every available model finds the image that belongs to a text, directly or by its caption."""
        with asset_context(context, store, compute) as asset:
            pairs = load_pairs(asset.input(ImageTextPairs, "image_text_pairs"))
            texts = asset.input(Captions, "captions").captions()
            registry = load_registry()
            found, skipped = split_models([look_up(registry, name) for name in of_scores.image_text_models])
            for name, reason in skipped.items():
                context.log.warning(f"model {name} is skipped: {reason}")
            found = [with_precision(model, of_scores.load_precision) for model in found]
            models = {
                model.name: truncating(
                    opener(model, asset.store, accelerator.get, **profile.sdg.consent()),
                    model.entry,
                    of_scores,
                )
                for model in found
            }
            scores = asset.build(
                ImageTextScores,
                lambda folder: score_models(
                    pairs, texts, models, skipped, of_scores, folder, asset.progress()
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
        """The models side by side: how sure their differences are, images against captions, and cost."""
        with asset_context(context, store, compute) as asset:
            scores = asset.input(ImageTextScores, "image_text_scores")
            described = asset.input(Captions, "captions")
            report = asset.build(
                ImageTextReport,
                lambda folder: write_report(scores, described, intervals, of_scores.recall_at, folder),
            )
            asset.link(IMAGE_TEXT_REPORT, report.path)
            shown = {
                "report": dg.MetadataValue.path(report.path / "report.html"),
                "tables": dg.MetadataValue.md((report.path / "report.md").read_text("utf-8")),
                "mrr": picture(report.path / "mrr.png"),
            }
            return asset.result(report, {**numbers(report.summary()), **shown})

    return [image_text_pairs, captions, image_text_scores, image_text_report]


def load_pairs(made: ImageTextPairs) -> list[Pair]:
    """The pairs of an artifact, in order."""
    return [
        Pair(row["pair_id"], row["text"], row["image"], tuple(row["rgb"]) if row["rgb"] else None)
        for row in made.rows()
    ]


def _identity(model: Availability) -> str:
    """Digest of a model's weights or service and of its settings; no weights are loaded."""
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
