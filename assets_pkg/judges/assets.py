"""Captions judged by embedding models, and the captioners ranked by them."""

from pathlib import Path

import dagster as dg

from assets_pkg.door import accelerator_pool, open_door, stage_asset
from assets_pkg.evaluation.settings import IntervalSettings
from assets_pkg.judges.report import shown_ranking
from assets_pkg.judges.run import load_captions, present_judges, rank_captioners, score_captions
from assets_pkg.profile import Profile
from assets_pkg.registered import opener
from assets_pkg.showing import numbers, picture, table
from resources.accelerator import AcceleratorResource
from resources.artifacts import ArtifactStoreResource
from resources.compute.resource import ComputeResource
from resources.encoders.open import Availability, open_encoder
from resources.models.registry import load_registry
from storage.artifacts import JudgeRanking, JudgeScores
from storage.digests import digest_json

CAPTIONS = "captions_digest"
"""Of the texts that were judged: what a plan compares with the files."""


def build_assets(profile: Profile) -> list[dg.AssetsDefinition]:
    """The ``judges`` group."""
    intervals = profile.eval.part(IntervalSettings)

    @stage_asset("judges", profile.judges, kinds={"json"}, pool=accelerator_pool(profile.compute, "judges"))
    def judge_scores(
        context: dg.AssetExecutionContext,
        store: ArtifactStoreResource,
        compute: ComputeResource,
        accelerator: AcceleratorResource,
    ) -> dg.MaterializeResult:
        """Every caption against its reference, by every judge that is here: coarse, fine-grained, and both."""
        with open_door(context, store, compute) as door:
            captions = load_captions(profile.judges)
            found = present_judges(profile.judges, load_registry())
            judges = {
                judge.name: opener(judge, door.store, accelerator, profile.sdg)
                for judge in found
                if judge.usable
            }
            skipped = {judge.name: judge.problem or "" for judge in found if not judge.usable}
            for name, reason in skipped.items():
                context.log.warning(f"judge {name} is skipped: {reason}")
            identities = {judge.name: _identity(judge) for judge in found if judge.usable}
            made = door.build(
                JudgeScores,
                lambda folder: score_captions(captions, judges, skipped, folder, door.progress()),
                outside={"captions": captions.digest(), "judges": digest_json(identities)},
            )
            door.link("judges/results", made.path)
            missing = [{"judge": name, "reason": reason} for name, reason in made.skipped().items()]
            shown = {CAPTIONS: captions.digest(), **numbers(made.summary()), "skipped": table(missing)}
            return door.result(made, shown)

    @stage_asset("judges", intervals, kinds={"json"}, deps=("judge_scores",))
    def judge_ranking(
        context: dg.AssetExecutionContext, store: ArtifactStoreResource, compute: ComputeResource
    ) -> dg.MaterializeResult:
        """Captioners by Borda points over the judges, with intervals, agreement and stability."""
        with open_door(context, store, compute) as door:
            scores = door.input(JudgeScores, "judge_scores")

            def produce(folder: Path) -> None:
                rank_captioners(scores, intervals, folder)

            ranking = door.build(JudgeRanking, produce)
            door.link("judges/ranking", ranking.path)
            told = ranking.ranking()
            shown = {
                "ranking": table(shown_ranking(told["ranking"], told["confidence"])),
                "chart": picture(ranking.path / "ranking.png"),
                "agreement": picture(ranking.path / "agreement.png"),
            }
            return door.result(ranking, {**numbers(ranking.summary()), **shown})

    return [judge_scores, judge_ranking]


def _identity(judge: Availability) -> str:
    """Digest of a judge's weights or service, and of how it is run; nothing is loaded."""
    encoder = open_encoder(judge)
    try:
        return encoder.identity("passage")
    finally:
        encoder.close()
