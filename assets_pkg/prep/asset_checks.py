"""The checks of the three sets, as the UI shows them: one step for each set."""

from collections.abc import Iterator, Mapping

import dagster as dg

from assets_pkg.door import Inputs
from assets_pkg.prep import checks
from assets_pkg.prep.checks import Finding
from assets_pkg.prep.leakage import find_leaks
from assets_pkg.profile import Profile
from assets_pkg.showing import numbers, table
from resources.artifacts import ArtifactStoreResource
from storage.artifacts import Checkpoint, EvalSet, MinedTrainSet, TrainingSet


def build_checks(profile: Profile) -> list[dg.AssetChecksDefinition]:
    """Blocking: what must not travel on. The others warn."""

    @dg.multi_asset_check(
        name="check_training_set",
        specs=[
            _spec("training_set", "no_leakage", "No question or answer of the exam is in training.", True),
            _spec("training_set", "near_duplicates", "Nothing of the exam is nearly in training.", True),
            _spec("training_set", "answers_in_corpus", "Every passage named is in the corpus.", True),
            _spec("training_set", "enough_examples", "At least 100 training questions."),
            _spec("training_set", "clean_texts", "No duplicated question, no empty text."),
        ],
    )
    def check_training_set(
        context: dg.AssetCheckExecutionContext, store: ArtifactStoreResource
    ) -> Iterator[dg.AssetCheckResult]:
        inputs = Inputs(context.instance, store)
        training = inputs.input(TrainingSet, "training_set")
        exam = inputs.input(EvalSet, "eval_set")
        leaks = find_leaks(training, exam, profile.prep.near_duplicate_threshold)
        yield from _results(
            "training_set",
            {
                "no_leakage": checks.check_exact_leaks(leaks),
                "near_duplicates": checks.check_near_leaks(leaks, profile.prep.max_near_duplicate_share),
                "answers_in_corpus": checks.check_training_answers(training, "train.json"),
                "enough_examples": checks.check_enough_examples(training),
                "clean_texts": checks.check_training_texts(training),
            },
        )

    @dg.multi_asset_check(
        name="check_eval_set",
        specs=[
            _spec("eval_set", "answers_in_corpus", "Every answer is in the exam's corpus.", True),
            _spec("eval_set", "enough_queries", "At least 50 questions."),
            _spec("eval_set", "clean_texts", "No duplicated question, no empty text."),
        ],
    )
    def check_eval_set(
        context: dg.AssetCheckExecutionContext, store: ArtifactStoreResource
    ) -> Iterator[dg.AssetCheckResult]:
        exam = Inputs(context.instance, store).input(EvalSet, "eval_set")
        yield from _results(
            "eval_set",
            {
                "answers_in_corpus": checks.check_exam_answers(exam),
                "enough_queries": checks.check_enough_queries(exam),
                "clean_texts": checks.check_exam_texts(exam),
            },
        )

    @dg.multi_asset_check(
        name="check_mined_train_set",
        specs=[
            _spec("mined_train_set", "answers_in_corpus", "Every passage named is in the corpus.", True),
            _spec("mined_train_set", "enough_negatives", "Every question has all its hard negatives."),
            _spec("mined_train_set", "passage_lengths", "Few passages are cut at passage_max_length."),
        ],
    )
    def check_mined_train_set(
        context: dg.AssetCheckExecutionContext, store: ArtifactStoreResource
    ) -> Iterator[dg.AssetCheckResult]:
        inputs = Inputs(context.instance, store)
        mined = inputs.input(MinedTrainSet, "mined_train_set")
        base = inputs.input(Checkpoint, "base_model")
        counter = checks.token_counter(base.model, profile.model.passage_prefix)
        yield from _results(
            "mined_train_set",
            {
                "answers_in_corpus": checks.check_training_answers(mined, "train_mined.automodel.json"),
                "enough_negatives": checks.check_enough_negatives(mined),
                "passage_lengths": checks.check_lengths(mined, counter, profile.model.passage_max_length),
            },
        )

    return [check_training_set, check_eval_set, check_mined_train_set]


def _spec(asset: str, name: str, description: str, blocking: bool = False) -> dg.AssetCheckSpec:
    return dg.AssetCheckSpec(name, asset=asset, description=description, blocking=blocking)


def _results(asset: str, findings: Mapping[str, Finding]) -> Iterator[dg.AssetCheckResult]:
    for name, finding in findings.items():
        samples = {"samples": table(finding.rows)} if finding.rows else {}
        yield dg.AssetCheckResult(
            passed=finding.passed,
            asset_key=asset,
            check_name=name,
            severity=dg.AssetCheckSeverity[finding.severity],
            metadata={**numbers(finding.figures), **samples},
        )
