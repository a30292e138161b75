"""The assets of the ``judges`` group: caption scores by embedding models, and the ranking of the captioners."""

from pathlib import Path

import dagster as dg

from assets_pkg.config.profile import Profile
from assets_pkg.config.sections.evaluation import IntervalSettings
from assets_pkg.judges.pipeline import (
    load_captions,
    load_published,
    present_judges,
    rank_captioners,
    score_captions,
)
from assets_pkg.judges.published import Placed
from assets_pkg.judges.report import shown_placed, shown_ranking, unread
from assets_pkg.orchestration.asset_context import asset_context
from assets_pkg.orchestration.metadata import numbers, picture, table
from assets_pkg.orchestration.stage_asset import accelerator_pool, stage_asset
from resources.configurable import AcceleratorResource, ArtifactStoreResource, ComputeResource
from resources.encoders.factory import Availability, open_encoder, opener
from resources.encoders.text_lengths import text_length
from resources.models.registry import load_registry
from storage.artifact_store import ArtifactStore
from storage.artifacts import JudgeRanking, JudgeScores
from storage.digests import digest_json
from storage.paths import JUDGE_RANKING, JUDGE_RESULTS

CAPTIONS = "captions_digest"
"""Metadata key: digest of the judged texts, which a plan compares with the files."""

PUBLISHED = "published_digest"
"""Metadata key: digest of the published results, or empty; a plan compares it with the files."""


def build_assets(profile: Profile) -> list[dg.AssetsDefinition]:
    """The assets of the group."""
    intervals = profile.eval.part(IntervalSettings)

    @stage_asset("judges", profile.judges, kinds={"json"}, pool=accelerator_pool(profile.compute, "judges"))
    def judge_scores(
        context: dg.AssetExecutionContext,
        store: ArtifactStoreResource,
        compute: ComputeResource,
        accelerator: AcceleratorResource,
    ) -> dg.MaterializeResult:
        """How close every caption is to its reference, by every embedding model that is available as a judge."""
        with asset_context(context, store, compute) as asset:
            captions = load_captions(profile.judges)
            found = present_judges(profile.judges, load_registry())
            judges = {
                judge.name: opener(judge, asset.store, accelerator.get, **profile.sdg.consent())
                for judge in found
                if judge.usable
            }
            skipped = {judge.name: judge.problem or "" for judge in found if not judge.usable}
            for name, reason in skipped.items():
                context.log.warning(f"judge {name} is skipped: {reason}")
            for note in captions.notes():
                asset.note(note)
            limits = {
                judge.name: length for judge in found if judge.usable and (length := text_length(judge))
            }
            identities = {judge.name: _identity(judge) for judge in found if judge.usable}
            scores = asset.build(
                JudgeScores,
                lambda folder: score_captions(captions, judges, skipped, folder, asset.progress(), limits),
                outside={"captions": captions.digest(), "judges": digest_json(identities)},
            )
            asset.link(JUDGE_RESULTS, scores.path)
            missing = [{"judge": name, "reason": reason} for name, reason in scores.skipped().items()]
            not_read = [{"not read": line} for line in unread(scores, list(judges))]
            shown = {
                CAPTIONS: captions.digest(),
                **numbers(scores.summary()),
                "skipped": table(missing),
                "not_read": table(not_read, longest=400),
            }
            return asset.result(scores, shown)

    @stage_asset("judges", intervals, kinds={"json"}, deps=("judge_scores",))
    def judge_ranking(
        context: dg.AssetExecutionContext, store: ArtifactStoreResource, compute: ComputeResource
    ) -> dg.MaterializeResult:
        """The captioners in the order that the judges put them in, and how sure that order is."""
        with asset_context(context, store, compute) as asset:
            scores = asset.input(JudgeScores, "judge_scores")

            published = load_published(profile.judges, load_registry())

            def produce(folder: Path) -> None:
                rank_captioners(scores, intervals, folder, published)

            outside = {"published": published.digest()} if published else None
            ranking = asset.build(JudgeRanking, produce, outside=outside)
            asset.link(JUDGE_RANKING, ranking.path)
            document = ranking.ranking()
            shown = {
                PUBLISHED: published.digest() if published else "",
                "ranking": table(shown_ranking(document["ranking"], document["confidence"])),
                "ties": table({"tie": tie} for tie in document.get("ties", [])),
                "report": dg.MetadataValue.path(ranking.path / "report.html"),
                "chart": picture(ranking.path / "ranking.png"),
                "agreement": picture(ranking.path / "agreement.png"),
            }
            if published:
                beside = [Placed(**row) for row in document["beside_published"]]
                shown["beside_published"] = table(shown_placed(beside))
            return asset.result(ranking, {**numbers(ranking.summary()), **shown})

    return [judge_scores, judge_ranking]


def _identity(judge: Availability) -> str:
    """Digest of a judge's weights or service and of its settings; no weights are loaded."""
    encoder = open_encoder(judge)
    try:
        return encoder.identity("passage")
    finally:
        encoder.close()


def captions_changed(made: dg.AssetMaterialization, profile: Profile, _: ArtifactStore) -> str | None:
    """Whether the references or predictions that ``judge_scores`` read changed."""
    recorded = made.metadata.get(CAPTIONS)
    if recorded is not None and recorded.value == load_captions(profile.judges).digest():
        return None
    return "the files of judges.references or judges.predictions_dir changed"


def published_changed(made: dg.AssetMaterialization, profile: Profile, _: ArtifactStore) -> str | None:
    """Whether other published results are beside the ranking than when it was made."""
    recorded = made.metadata.get(PUBLISHED)
    published = load_published(profile.judges, load_registry())
    if (recorded.value if recorded else "") == (published.digest() if published else ""):
        return None
    return "judges.published_results or its files changed"
