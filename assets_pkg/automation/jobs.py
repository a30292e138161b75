"""The jobs: the whole pipeline, the benchmarks, and what the sensors and schedules run."""

from collections.abc import Collection
from typing import Any

import dagster as dg

from assets_pkg.config.profile import Profile
from assets_pkg.config.stages import BENCHMARKS, STAGES

MAIN_JOB = "retune"
BENCHMARK_JOB = "benchmarks"
REINDEX_JOB = "reindex"
DEPLOY_JOB = "deploy"
CORPUS_JOB = "refresh_corpus"
MEASURE_JOB = "measure"


def build_jobs(profile: Profile, benchmarks: Collection[str]) -> list[Any]:
    """The main job (all stages), that of the ``benchmarks`` if there are any, and those of sensors and schedules."""
    return [
        *_of_benchmarks([asset for name in benchmarks for asset in BENCHMARKS[name]]),
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
            REINDEX_JOB,
            selection=list(STAGES["reindex"]),
            description="Embed the corpus with the promoted model, index it, and choose how it is searched.",
            tags={"dagster/max_retries": "1"},
        ),
        dg.define_asset_job(
            DEPLOY_JOB,
            selection=["onnx_model", "running_nim"],
            description="Export the promoted model, and replace the embedding server by one that serves it.",
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


def _of_benchmarks(assets: list[str]) -> list[Any]:
    if not assets:
        return []
    described = "The caption judges and the image-text benchmark."
    return [dg.define_asset_job(BENCHMARK_JOB, selection=assets, description=described)]
