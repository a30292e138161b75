"""The assets of stage 6: the corpus embedded by the promoted model and the search index, made in one step, so that both
are always of the same model; and the search method."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import dagster as dg

from assets_pkg.config.base import ModelSettings
from assets_pkg.config.profile import Profile
from assets_pkg.config.sections.reindex import ReindexSettings
from assets_pkg.orchestration.asset_context import VERDICT, AssetContext, asset_context
from assets_pkg.orchestration.history import SETTINGS_KEY, data_version
from assets_pkg.orchestration.metadata import numbers, picture, table
from assets_pkg.orchestration.run_config import config_fields
from assets_pkg.orchestration.stage_asset import (
    OWNERS,
    accelerator_pool,
    code_version,
    shown_settings,
    stage_asset,
)
from assets_pkg.reindex.corpus_embedding import embed_corpus, served_encoder
from assets_pkg.reindex.index import build_index, is_lost, open_index
from assets_pkg.reindex.index_checks import (
    NOTHING_TO_COMPARE,
    EvaluationCheck,
    compare_with_measurement,
    measured_as,
    verify_index,
)
from assets_pkg.reindex.search_method import choose_search_method
from assets_pkg.reindex.searched_index import SearchError, current_index, switch_to
from resources.configurable import ArtifactStoreResource, ComputeResource, EncoderResource
from resources.vector_store.base import PassageIndex
from storage.artifact_store import ArtifactError, ArtifactStore
from storage.artifacts import (
    Checkpoint,
    CorpusEmbeddings,
    EvalReport,
    EvalSet,
    OnnxModel,
    Passages,
    SearchChoice,
    VectorIndex,
)
from storage.paths import INDEX_LINK, SEARCH_METHODS

WARN = dg.AssetCheckSeverity.WARN
INDEX_CHECK = dg.AssetCheckSpec(
    "index_is_fit",
    asset="vector_index",
    description="Every passage is in the index with a valid vector and is found; search switches to it only then.",
    blocking=True,
)


IN_STEP = dg.AssetCheckSpec(
    "index_is_in_step",
    asset="vector_index",
    description="The index belongs to the promoted model and the current corpus, or a sensor has yet to rebuild it.",
)


def reindex_deps(settings: ReindexSettings) -> list[str]:
    """The assets that the index depends on."""
    return ["promoted_model", "passages", *(["running_nim"] if settings.encoder == "nim" else [])]


def build_assets(profile: Profile) -> list[dg.AssetsDefinition]:
    """The ``reindex`` group."""
    spec = {
        "deps": reindex_deps(profile.reindex),
        "group_name": "reindex",
        "code_version": code_version("2", profile.reindex, profile.model),
        "owners": OWNERS,
        "metadata": {SETTINGS_KEY: shown_settings(profile.reindex, profile.model)},
    }

    max_age = profile.automation.index_max_age_hours
    freshness = dg.FreshnessPolicy.time_window(fail_window=timedelta(hours=max_age)) if max_age else None

    # One step and identical deps: a model promoted meanwhile makes both assets stale, never only one.
    @dg.multi_asset(
        specs=[
            dg.AssetSpec(
                "corpus_embeddings",
                kinds={"parquet"},
                description="The vector of every passage, computed by the promoted model.",
                **spec,
            ),
            dg.AssetSpec(
                "vector_index",
                kinds={"lancedb"},
                description="The index that answers searches; a new version replaces it once it has passed its check.",
                freshness_policy=freshness,
                **spec,
            ),
        ],
        check_specs=[INDEX_CHECK, IN_STEP],
        pool=accelerator_pool(profile.compute, "reindex"),
        config_schema=config_fields("vector_index", profile.reindex),
    )
    def embed_and_index(
        context: dg.AssetExecutionContext,
        store: ArtifactStoreResource,
        compute: ComputeResource,
        encoders: EncoderResource,
    ) -> Iterator[dg.MaterializeResult | dg.AssetCheckResult]:
        """Embed the corpus with the promoted model and index it; both results appear together, at the end."""
        with asset_context(context, store, compute) as asset:
            passages = asset.input(Passages, "passages")
            model = asset.input(Checkpoint, "promoted_model")

            def embed(folder: Path) -> None:
                _embed(asset, profile, passages, model, compute, encoders, folder)

            embeddings = asset.build(CorpusEmbeddings, embed, asset="corpus_embeddings")
            index = _index(asset, profile.reindex, passages, embeddings)
            check = _verify(asset, index, passages, embeddings, profile, encoders)
            if check.passed and asset.points:
                switch_to(asset.store, index)
            elif not check.passed and not _is_searched(asset.store, index):
                open_index(index.path, index.describe()["place"]).drop()
                index = replace(index, path=asset.store.set_aside(index))
            yield asset.result(embeddings, numbers(embeddings.describe()), asset="corpus_embeddings")
            yield asset.result(index, numbers(index.describe()), asset="vector_index")
            yield check
            yield dg.AssetCheckResult(
                check_name=IN_STEP.name,
                asset_key=asset.names.key("vector_index"),
                passed=check.passed,
                severity=WARN,
            )

    return [_search_method(profile), embed_and_index]


def _search_method(profile: Profile) -> dg.AssetsDefinition:
    @stage_asset(
        "reindex",
        profile.search,
        profile.model,
        profile.eval,
        kinds={"json"},
        deps=("eval_set", "promoted_model", "base_model"),
        pool=accelerator_pool(profile.compute, "reindex"),
    )
    def search_method(
        context: dg.AssetExecutionContext,
        store: ArtifactStoreResource,
        compute: ComputeResource,
        encoders: EncoderResource,
    ) -> dg.MaterializeResult:
        """How a question is answered from the index: by vectors, by words (BM25) or by both, whichever is best on the
        eval set."""
        with asset_context(context, store, compute) as asset:
            eval_set, model = asset.input(EvalSet, "eval_set"), asset.input(Checkpoint, "promoted_model")

            base = asset.input(Checkpoint, "base_model")

            def measure(folder: Path) -> None:
                with ExitStack() as opened:
                    encoder = opened.enter_context(encoders.open(model))
                    other = (
                        opened.enter_context(encoders.open(base)) if base.version != model.version else None
                    )
                    choose_search_method(
                        eval_set,
                        model,
                        encoder,
                        other,
                        profile.search,
                        profile.eval,
                        folder,
                        asset.progress(),
                    )

            choice = asset.build(SearchChoice, measure)
            asset.link(f"{SEARCH_METHODS}/{model.version}", choice.path)
            chosen = choice.describe()
            rows = [{"method": name, **_shown(means)} for name, means in chosen["measured"].items()]
            return asset.result(
                choice,
                {
                    VERDICT: f"{chosen['method']}: {chosen['reason']}",
                    **_shown_gains(choice),
                    "measured": table(rows),
                    "method": chosen["method"],
                    "reason": chosen["reason"],
                    **({"gain_ndcg_10": chosen["gain"]["delta"]} if chosen["gain"] else {}),
                    "questions": chosen["questions"],
                },
            )

    return search_method


def _shown_gains(choice: SearchChoice) -> dict[str, Any]:
    """Base dense, fine-tuned dense and the chosen search in one table and one picture; nothing for versions that did
    not record it."""
    gains = choice.gains()
    if not gains:
        return {}
    rows = [
        {
            "search": row["search"],
            "NDCG@10": row["NDCG@10"],
            "gain": f"{row['gain']:+.4f}" if "gain" in row else "",
            "interval": f"{row['low']:+.4f} to {row['high']:+.4f}" if "gain" in row else "",
            "won / lost": f"{row['won']} / {row['lost']}" if "gain" in row else "",
        }
        for row in gains["rows"]
    ]
    return {
        "gains": table(rows),
        "gains_picture": picture(choice.path / "gains.png"),
        "questions_won_and_lost": table(gains["questions"]),
    }


def _shown(means: Mapping[str, float]) -> dict[str, float]:
    return {name: means[name] for name in ("NDCG@10", "Recall@10", "MRR@10")}


def _is_searched(store: ArtifactStore, index: VectorIndex) -> bool:
    searched = store.resolve(INDEX_LINK)
    return searched is not None and searched.name == index.version


def _embed(
    asset: AssetContext,
    profile: Profile,
    passages: Passages,
    model: Checkpoint,
    compute: ComputeResource,
    encoders: EncoderResource,
    folder: Path,
) -> None:
    workers = None
    if profile.reindex.encoder == "nim":
        deployed = asset.input(OnnxModel, "running_nim")
        opened = served_encoder(asset.store, profile.deploy, model, deployed)
    else:
        opened = encoders.open(model)
        workers = compute.workers(encoders.recipe(model))
    with opened as encoder:
        contract = profile.model.contract()
        embed_corpus(passages, model, encoder, contract, folder, asset.progress(), workers)


def _index(
    asset: AssetContext, settings: ReindexSettings, passages: Passages, embeddings: CorpusEmbeddings
) -> VectorIndex:
    def make(folder: Path) -> None:
        build_index(passages, embeddings, settings, folder, asset.store)

    index = asset.build(VectorIndex, make, asset="vector_index")
    if is_lost(index):
        asset.note(f"vector_index: the server no longer has {index.version}: it is built again")
        index = asset.build(VectorIndex, make, asset="vector_index", anew=True)
    return index


def _verify(
    asset: AssetContext,
    index: VectorIndex,
    passages: Passages,
    embeddings: CorpusEmbeddings,
    profile: Profile,
    encoders: EncoderResource,
) -> dg.AssetCheckResult:
    described = index.describe()
    opened = open_index(index.path, described["place"])
    check = verify_index(opened, passages, embeddings, described["dimensions"])
    evaluation = _compare_with_evaluation(
        asset, opened, described, passages, embeddings, profile.model, encoders
    )
    problem = evaluation.problem(profile.reindex.eval_tolerance)
    problems = [*check.problems(profile.reindex.min_index_recall), *([problem] if problem else [])]
    return dg.AssetCheckResult(
        check_name=INDEX_CHECK.name,
        asset_key=asset.names.key("vector_index"),
        passed=not problems,
        description="; ".join(problems) or None,
        metadata={
            **numbers({**asdict(check), **asdict(evaluation)}),
            "problems": "; ".join(problems) or "(none)",
        },
    )


def _compare_with_evaluation(
    asset: AssetContext,
    opened: PassageIndex,
    described: Mapping[str, Any],
    passages: Passages,
    embeddings: CorpusEmbeddings,
    settings: ModelSettings,
    encoders: EncoderResource,
) -> EvaluationCheck:
    """The index against the evaluation of its model; nothing to compare if it was not evaluated in this way."""
    measured = asset.previous("eval_metrics")
    if measured is None or described["dimensions"] < embeddings.describe()["dimensions"]:
        return NOTHING_TO_COMPARE
    # With other prefixes or lengths the model ranks differently.
    then: Any = measured.metadata[SETTINGS_KEY].value
    if not settings.contract().items() <= then.items():
        return NOTHING_TO_COMPARE
    report, model = asset.input(EvalReport, "eval_metrics"), asset.input(Checkpoint, "promoted_model")
    name = measured_as(report, model.version)
    eval_set = report.comparison()["eval_set"]
    if name is None or not asset.store.has("eval_set", eval_set):
        return NOTHING_TO_COMPARE
    with encoders.open(model) as encoder:
        return compare_with_measurement(
            opened,
            described["dimensions"],
            passages,
            encoder,
            asset.store.get(EvalSet, "eval_set", eval_set),
            report,
            name,
        )


def searched_index_changed(
    made: dg.AssetMaterialization, profile: Profile, store: ArtifactStore
) -> str | None:
    """Whether searches use another index than the latest ``vector_index``, or its server has lost it."""
    try:
        index = current_index(store)
    except (SearchError, ArtifactError):
        return "the index is not in the store"
    if is_lost(index):
        return "the server has the index no longer"
    version = data_version(made)
    return (
        None
        if index.version == version
        else f"index {version} is not the one that is searched: {index.version} is"
    )
