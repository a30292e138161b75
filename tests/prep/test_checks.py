import json

import pytest

from assets_pkg.prep import asset_checks
from assets_pkg.prep.leakage import Leaks
from resources.encoders.token_counter import token_counter
from storage.artifacts import MinedTrainSet
from storage.formats.beir import BeirDocument, BeirQuery, write_beir
from storage.formats.retriever_json import PassageRef, RetrieverExample, write_corpus, write_retriever_file

from .conftest import eval_set_at, training_set_at


def leaks(**changes):
    values = {
        "questions": 0,
        "passages": 0,
        "held_out": 0,
        "samples": [],
        "near_questions": 0,
        "near_answers": 0,
        "near_share": 0.0,
        "near_samples": [],
    }
    return Leaks(**{**values, **changes})


def write_training(folder, questions, passages, file="train.json"):
    write_corpus(folder / "corpus", passages.items())
    write_retriever_file(
        folder / file,
        [RetrieverExample(f"q{n}", text, (PassageRef(name),)) for n, (text, name) in enumerate(questions)],
    )
    return training_set_at(folder)


def write_eval_set(folder, questions, passages):
    write_beir(
        folder / "eval_beir",
        [BeirDocument(name, text) for name, text in passages.items()],
        [BeirQuery(f"q{n}", text) for n, (text, _) in enumerate(questions)],
        {f"q{n}": {name: 1} for n, (_, name) in enumerate(questions)},
    )
    return eval_set_at(folder)


@pytest.mark.parametrize("kind", ["questions", "passages", "held_out"])
def test_one_exact_leak_is_an_error(kind):
    assert asset_checks.check_exact_leaks(leaks()).passed
    finding = asset_checks.check_exact_leaks(leaks(**{kind: 1}))
    assert (finding.passed, finding.severity, finding.figures[kind]) == (False, "ERROR", 1)


@pytest.mark.parametrize(
    ("share", "passed", "severity"), [(0.0, True, "WARN"), (0.1, False, "WARN"), (0.11, False, "ERROR")]
)
def test_near_leaks_are_a_warning_up_to_the_tolerated_share(share, passed, severity):
    finding = asset_checks.check_near_leaks(leaks(near_questions=3, near_share=share), 0.1)
    assert (finding.passed, finding.severity) == (passed, severity)
    assert ("what_to_do" in finding.figures) is (share > 0)


def test_answers_that_the_corpus_lacks_are_an_error_and_listed(tmp_path):
    questions = [("first", "p1"), ("second", "gone")]
    for make, check in (
        (write_training, lambda made: asset_checks.check_training_answers(made, "train.json")),
        (write_eval_set, asset_checks.check_eval_set_answers),
    ):
        finding = check(make(tmp_path, questions, {"p1": "text"}))
        assert (finding.passed, finding.severity, finding.figures) == (False, "ERROR", {"missing": 1})
        assert finding.rows == [{"question": "q1", "passage": "gone"}]
        assert check(make(tmp_path, questions[:1], {"p1": "text"})).passed


@pytest.mark.parametrize(("count", "passed"), [(99, False), (100, True)])
def test_few_training_questions_are_a_warning(tmp_path, count, passed):
    made = write_training(tmp_path, [(f"question {n}", "p") for n in range(count)], {"p": "text"})
    finding = asset_checks.check_enough_examples(made)
    assert (finding.passed, finding.severity) == (passed, "WARN")


@pytest.mark.parametrize(("count", "passed", "width"), [(49, False, "+-0.140"), (100, True, "+-0.098")])
def test_few_eval_set_questions_are_a_warning_with_the_interval_to_expect(tmp_path, count, passed, width):
    finding = asset_checks.check_enough_queries(
        write_eval_set(tmp_path, [(f"q {n}", "p") for n in range(count)], {"p": "t"})
    )
    assert (finding.passed, finding.severity) == (passed, "WARN")
    assert finding.figures["widest_95_percent_interval"].startswith(width)


@pytest.mark.parametrize("make", [write_training, write_eval_set])
def test_duplicated_questions_and_empty_texts_are_a_warning(tmp_path, make):
    check = asset_checks.check_training_texts if make is write_training else asset_checks.check_eval_set_texts
    questions = [("What is it?", "p"), ("what  IS it?", "p"), ("other", "p"), ("", "p")]
    finding = check(make(tmp_path, questions, {"p": "text", "empty": " "}))
    assert (finding.passed, finding.severity) == (False, "WARN")
    assert finding.figures == {"duplicated_questions": 1, "empty_questions": 1, "empty_passages": 1}
    assert finding.rows == [{"question": "what is it?", "times": 2}]
    assert check(make(tmp_path, questions[1:3], {"p": "text"})).passed


def test_lengths_are_counted_by_the_models_tokenizer(tmp_path, tiny_model):
    count = token_counter(tiny_model, "passage: ")
    # [CLS] passage : the quick brown fox [SEP]
    assert count(["the quick brown fox"]) == [8]
    passages = {f"d{n}": " ".join(["word"] * n) for n in range(1, 101)}
    write_training(tmp_path, [("q", "d1")], passages, "train_mined.automodel.json")
    mined = MinedTrainSet(tmp_path, "mined_train_set", "v")
    finding = asset_checks.check_lengths(mined, count, 84)  # 4 more tokens than words: 81 words are too many
    assert (finding.figures["cut"], finding.figures["longest"]) == (20, 104)
    assert (finding.passed, finding.severity) == (False, "WARN")
    assert asset_checks.check_lengths(mined, count, 95).passed  # 9 of 100


def test_too_few_negatives_are_a_warning(tmp_path):
    mined = MinedTrainSet(tmp_path, "mined_train_set", "v")
    for fewer, passed in ((0, True), (3, False)):
        (tmp_path / "summary.json").write_text(json.dumps({"questions_with_fewer_negatives": fewer}))
        finding = asset_checks.check_enough_negatives(mined)
        assert (finding.passed, finding.severity) == (passed, "WARN")
