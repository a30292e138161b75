"""The jobs: the whole pipeline, the benchmarks, and what the sensors and schedules run."""

from typing import Any

import dagster as dg

from assets_pkg.config.profile import Profile
from assets_pkg.config.stages import BENCHMARKS, STAGES

MAIN_JOB = "retune"
BENCHMARK_JOB = "benchmarks"
REINDEX_JOB = "reindex"
CORPUS_JOB = "refresh_corpus"
MEASURE_JOB = "measure"


def build_jobs(profile: Profile) -> list[Any]:
    """The main job (everything), and the jobs of the sensors and schedules."""
    return [
        dg.define_asset_job(
            MAIN_JOB,
            selection=sorted(
                {
                    asset
                    for stages in (STAGES, profile.stages())
                    for assets in stages.values()
                    for asset in assets
                }
            ),
            description="All stages: from the documents to the index.",
        ),
        dg.define_asset_job(
            BENCHMARK_JOB,
            selection=[asset for assets in BENCHMARKS.values() for asset in assets],
            description="The caption judges and the image-text benchmark.",
        ),
        dg.define_asset_job(
            REINDEX_JOB,
            selection=list(STAGES["reindex"]),
            description="Embed the corpus with the promoted model, index it, and choose how it is searched.",
            tags={"dagster/max_retries": "1"},
        ),
        dg.define_asset_job(
            CORPUS_JOB, selection=["raw_corpus", "passages"], description="Read the documents again."
        ),
        dg.define_asset_job(
            MEASURE_JOB,
            selection=["eval_metrics", "promoted_model"],
            description="Measure base and fine-tuned model, and decide on the promotion.",
        ),
    ]
