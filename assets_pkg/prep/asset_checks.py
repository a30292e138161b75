"""Asset checks of the training set, the eval set and the mined training set.

Each check is a function that returns a :class:`Finding`; :func:`build_checks` makes Dagster's checks of them.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import sqrt
from typing import Any, Literal

import dagster as dg
import numpy as np

from assets_pkg.config.profile import Profile
from assets_pkg.orchestration.metadata import in_words, numbers, table
from assets_pkg.orchestration.upstream import UpstreamArtifacts, inputs_of_check
from assets_pkg.prep.filtering import question_key
from assets_pkg.prep.leakage import Leaks, find_leaks
from resources.configurable import ArtifactStoreResource
from resources.encoders.token_counter import TokenCounter, token_counter
from storage.artifacts import Checkpoint, EvalSet, MinedTrainSet, TrainingSet
from storage.formats.beir import read_documents, read_qrels, read_queries
from storage.formats.retriever_json import read_corpus, read_retriever_file

FEW_EXAMPLES = 100
FEW_QUERIES = 50
WIDEST_SPREAD = 0.5
"""The largest standard deviation that values between 0 and 1 can have."""

NORMAL_95 = 1.96
MANY_CUT = 0.1
"""Share of truncated passages above which the check warns."""

PASSAGES_MEASURED = 20_000
SHOWN = 10


@dataclass(frozen=True)
class Finding:
    """The result of one check. ``figures`` are numbers and short texts, ``rows`` a table of examples."""

    passed: bool
    severity: Literal["WARN", "ERROR"]
    figures: Mapping[str, Any] = field(default_factory=dict[str, Any])
    rows: Sequence[Mapping[str, Any]] = ()


def check_exact_leaks(leaks: Leaks) -> Finding:
    """No question and no answer of the eval set occurs in training."""
    figures = {"questions": leaks.questions, "passages": leaks.passages, "held_out": leaks.held_out}
    return Finding(leaks.total == 0, "ERROR", figures, leaks.samples)


def check_near_leaks(leaks: Leaks, tolerated_share: float) -> Finding:
    """Few questions of the eval set are near duplicates of training questions, or have an answer that is one of a
    training answer: a warning from the first on, an error above the tolerated share."""
    figures = {
        "near_questions": leaks.near_questions,
        "near_answers": leaks.near_answers,
        "share_of_eval_questions": round(leaks.near_share, 4),
        "tolerated_share": tolerated_share,
    }
    if leaks.near_share:
        figures["what_to_do"] = "prep.split_strategy=near_duplicate keeps near duplicates on one side"
    over = leaks.near_share > tolerated_share
    return Finding(leaks.near_share == 0, "ERROR" if over else "WARN", figures, leaks.near_samples)


def check_training_answers(training: TrainingSet | MinedTrainSet, file: str) -> Finding:
    """Every passage that a training question names is in the corpus."""
    source = read_retriever_file(training.path / file)
    known = {name for name, _ in source.passages()}
    missing = [
        {"question": example.question_id, "passage": each.passage_id}
        for example in source.examples
        for each in (*example.positives, *example.negatives)
        if each.passage_id not in known
    ]
    return Finding(not missing, "ERROR", {"missing": len(missing)}, missing[:SHOWN])


def check_eval_set_answers(eval_set: EvalSet) -> Finding:
    """Every answer of the eval set is in its corpus."""
    known = {each.doc_id for each in read_documents(eval_set.beir)}
    missing = [
        {"question": query, "passage": name}
        for query, judged in read_qrels(eval_set.beir).items()
        for name, score in judged.items()
        if score > 0 and name not in known
    ]
    return Finding(not missing, "ERROR", {"missing": len(missing)}, missing[:SHOWN])


def check_enough_examples(training: TrainingSet) -> Finding:
    """Training has 100 questions at least."""
    count = len(read_retriever_file(training.path / "train.json").examples)
    advice = {} if count >= FEW_EXAMPLES else {"what_to_do": "add documents or lower prep.quality_threshold"}
    return Finding(count >= FEW_EXAMPLES, "WARN", {"training_questions": count, **advice})


def check_enough_queries(eval_set: EvalSet) -> Finding:
    """The eval set has 50 questions at least; and how wide an interval to expect."""
    count = len(read_qrels(eval_set.beir))
    half = NORMAL_95 * WIDEST_SPREAD / sqrt(max(1, count))
    figures = {"questions": count, "widest_95_percent_interval": f"+-{half:.3f} around a metric's mean"}
    if count < FEW_QUERIES:
        figures["what_to_do"] = "add documents or raise prep.test_ratio: smaller gains will not show"
    return Finding(count >= FEW_QUERIES, "WARN", figures)


def check_training_texts(training: TrainingSet) -> Finding:
    """No training question comes twice, and no text is empty."""
    source = read_retriever_file(training.path / "train.json")
    return _check_texts([each.question for each in source.examples], (text for _, text in source.passages()))


def check_eval_set_texts(eval_set: EvalSet) -> Finding:
    """No question of the eval set comes twice, and no text is empty."""
    qrels = read_qrels(eval_set.beir)
    questions = [each.text for each in read_queries(eval_set.beir) if each.query_id in qrels]
    return _check_texts(questions, (each.joined for each in read_documents(eval_set.beir)))


def check_enough_negatives(mined: MinedTrainSet) -> Finding:
    """Every question has ``hard_negatives_to_mine`` negatives."""
    summary = mined.summary()
    names = ("questions_with_fewer_negatives", "questions_filled", "questions_dropped")
    figures = {name: summary[name] for name in names if name in summary}
    return Finding(figures["questions_with_fewer_negatives"] == 0, "WARN", figures)


def check_lengths(mined: MinedTrainSet, count_tokens: TokenCounter, max_length: int) -> Finding:
    """Few passages are longer than ``max_length`` tokens; of a large corpus an evenly spaced sample is measured."""
    texts = [text for _, text in read_corpus(mined.path / "corpus")]
    measured = texts[:: -(-len(texts) // PASSAGES_MEASURED)]
    lengths = np.asarray(count_tokens(measured))
    cut = int((lengths > max_length).sum())
    middle, high, top = (int(value) for value in np.percentile(lengths, [50, 90, 99]))
    figures = {
        "passages_measured": len(measured),
        "median_tokens": middle,
        "tokens_90_percent": high,
        "tokens_99_percent": top,
        "longest": int(lengths.max()),
        "passage_max_length": max_length,
        "cut": cut,
        "share_cut": round(cut / len(measured), 4),
    }
    if cut > MANY_CUT * len(measured):
        figures["what_to_do"] = "raise model.passage_max_length or lower passages.sentences_per_chunk"
    longest = [measured[row] for row in np.argsort(-lengths, kind="stable")[:3]]
    rows = [{"longest_passages": text[:200]} for text in longest] if cut else []
    return Finding(cut <= MANY_CUT * len(measured), "WARN", figures, rows)


def _check_texts(questions: Sequence[str], passages: Iterable[str]) -> Finding:
    times = Counter(map(question_key, questions))
    twice = {key: count for key, count in times.items() if count > 1}
    figures = {
        "duplicated_questions": sum(count - 1 for count in twice.values()),
        "empty_questions": times.get("", 0),
        "empty_passages": sum(not text.strip() for text in passages),
    }
    rows = [{"question": key, "times": count} for key, count in list(twice.items())[:SHOWN]]
    return Finding(not any(figures.values()), "WARN", figures, rows)


def build_checks(profile: Profile) -> list[dg.AssetChecksDefinition]:
    """The checks; a failed blocking one stops the run, the others warn."""

    @dg.multi_asset_check(
        name="check_training_set",
        specs=[
            _spec(
                "training_set", "no_leakage", "No question or answer of the eval set is in training.", True
            ),
            _spec("training_set", "near_duplicates", "Nothing of the eval set is nearly in training.", True),
            _spec("training_set", "answers_in_corpus", "Every passage named is in the corpus.", True),
            _spec("training_set", "enough_examples", "At least 100 training questions."),
            _spec("training_set", "clean_texts", "No duplicated question, no empty text."),
        ],
    )
    def check_training_set(
        context: dg.AssetCheckExecutionContext, store: ArtifactStoreResource
    ) -> Iterator[dg.AssetCheckResult]:
        inputs = inputs_of_check(context, store)
        training = inputs.input(TrainingSet, "training_set")
        eval_set = inputs.input(EvalSet, "eval_set")
        leaks = find_leaks(training, eval_set, profile.prep.near_duplicate_threshold)
        yield from _results(
            inputs,
            "training_set",
            {
                "no_leakage": check_exact_leaks(leaks),
                "near_duplicates": check_near_leaks(leaks, profile.prep.max_near_duplicate_share),
                "answers_in_corpus": check_training_answers(training, "train.json"),
                "enough_examples": check_enough_examples(training),
                "clean_texts": check_training_texts(training),
            },
        )

    @dg.multi_asset_check(
        name="check_eval_set",
        specs=[
            _spec("eval_set", "answers_in_corpus", "Every answer is in the eval set's corpus.", True),
            _spec("eval_set", "enough_queries", "At least 50 questions."),
            _spec("eval_set", "clean_texts", "No duplicated question, no empty text."),
        ],
    )
    def check_eval_set(
        context: dg.AssetCheckExecutionContext, store: ArtifactStoreResource
    ) -> Iterator[dg.AssetCheckResult]:
        inputs = inputs_of_check(context, store)
        eval_set = inputs.input(EvalSet, "eval_set")
        yield from _results(
            inputs,
            "eval_set",
            {
                "answers_in_corpus": check_eval_set_answers(eval_set),
                "enough_queries": check_enough_queries(eval_set),
                "clean_texts": check_eval_set_texts(eval_set),
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
        inputs = inputs_of_check(context, store)
        mined = inputs.input(MinedTrainSet, "mined_train_set")
        base = inputs.input(Checkpoint, "base_model")
        counter = token_counter(
            base.model,
            profile.model.passage_prefix,
            trust_remote_code=profile.model.trust_remote_code,
        )
        yield from _results(
            inputs,
            "mined_train_set",
            {
                "answers_in_corpus": check_training_answers(mined, "train_mined.automodel.json"),
                "enough_negatives": check_enough_negatives(mined),
                "passage_lengths": check_lengths(mined, counter, profile.model.passage_max_length),
            },
        )

    return [check_training_set, check_eval_set, check_mined_train_set]


def _spec(asset: str, name: str, description: str, blocking: bool = False) -> dg.AssetCheckSpec:
    return dg.AssetCheckSpec(name, asset=asset, description=description, blocking=blocking)


def _results(
    inputs: UpstreamArtifacts, asset: str, findings: Mapping[str, Finding]
) -> Iterator[dg.AssetCheckResult]:
    for name, finding in findings.items():
        samples = {"samples": table(finding.rows)} if finding.rows else {}
        yield dg.AssetCheckResult(
            passed=finding.passed,
            asset_key=inputs.names.key(asset),
            check_name=name,
            severity=dg.AssetCheckSeverity[finding.severity],
            description=None if finding.passed else in_words(finding.figures),
            metadata={**numbers(finding.figures), **samples},
        )
