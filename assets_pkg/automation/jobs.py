"""The jobs: the whole pipeline, the benchmarks, and what the sensors and schedules run."""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import dagster as dg

from assets_pkg.config.profile import Profile
from assets_pkg.config.stages import BENCHMARKS, STAGES
from assets_pkg.orchestration.names import UNPREFIXED, Names
from assets_pkg.orchestration.places import OwnAssets
from assets_pkg.orchestration.run_tags import job_tags

MAIN_JOB = "retune"
BENCHMARK_JOB = "benchmarks"
REINDEX_JOB = "reindex"
DEPLOY_JOB = "deploy"
CORPUS_JOB = "refresh_corpus"
MEASURE_JOB = "measure"
JOBS = (MAIN_JOB, BENCHMARK_JOB, REINDEX_JOB, DEPLOY_JOB, CORPUS_JOB, MEASURE_JOB)


def build_jobs(profile: Profile, benchmarks: Collection[str], names: Names = UNPREFIXED) -> list[Any]:
    """The main job (all stages), that of the ``benchmarks`` if there are any, and those of sensors and schedules."""

    def keys(assets: Iterable[str]) -> list[dg.AssetKey]:
        return [names.key(asset) for asset in assets]

    tags = job_tags(profile)
    return [
        *_of_benchmarks([asset for name in benchmarks for asset in BENCHMARKS[name]], names, tags),
        dg.define_asset_job(
            names.of(MAIN_JOB),
            selection=OwnAssets(
                keys(
                    {
                        asset
                        for stages in (STAGES, profile.stages())
                        for assets in stages.values()
                        for asset in assets
                    }
                ),
                names,
            ),
            description="All stages: from the documents to the index.",
            tags=tags,
        ),
        dg.define_asset_job(
            names.of(REINDEX_JOB),
            selection=keys(STAGES["reindex"]),
            description="Embed the corpus with the promoted model, index it, and choose how it is searched.",
            tags={**tags, "dagster/max_retries": "1"},
        ),
        dg.define_asset_job(
            names.of(DEPLOY_JOB),
            selection=keys(["onnx_model", "running_nim"]),
            description="Export the promoted model, and replace the embedding server by one that serves it.",
            tags=tags,
        ),
        dg.define_asset_job(
            names.of(CORPUS_JOB),
            selection=keys(["raw_corpus", "passages"]),
            description="Read the documents again.",
            tags=tags,
        ),
        dg.define_asset_job(
            names.of(MEASURE_JOB),
            selection=keys(["eval_metrics", "promoted_model"]),
            description="Measure base and fine-tuned model, and decide on the promotion.",
            tags=tags,
        ),
    ]


def _of_benchmarks(assets: list[str], names: Names, tags: Mapping[str, str]) -> list[Any]:
    if not assets:
        return []
    described = "The caption judges and the image-text benchmark."
    return [
        dg.define_asset_job(
            names.of(BENCHMARK_JOB),
            selection=[names.key(asset) for asset in assets],
            description=described,
            tags=tags,
        )
    ]
