import random

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from assets_pkg.prep.errors import PrepError
from assets_pkg.prep.split import split_pairs
from storage.digests import passage_id
from storage.formats.qa_records import RecordError

from .conftest import record, simple_records, split_settings


def questions_of(data):
    return {
        name: [(each.question_id, each.pair.question) for each in each_split]
        for name, each_split in data.questions.items()
    }


def test_documents_that_stand_alone_are_split_as_the_recipe_does(make_pairs):
    data = split_pairs(make_pairs(simple_records(20)), split_settings())
    # The recipe: sorted names, random.seed(seed), shuffle, int(n * ratio) each, the rest to test.
    names = [f"doc{number:02}" for number in range(20)]
    random.seed(42)
    random.shuffle(names)
    want = {"train": names[:12], "val": names[12:16], "test": names[16:]}
    assert {name: {d for d, s in data.documents.items() if s == name} for name in want} == {
        name: set(documents) for name, documents in want.items()
    }


def test_the_order_of_the_file_does_not_matter(make_pairs):
    records = simple_records(15)
    first = split_pairs(make_pairs(records), split_settings())
    random.Random(3).shuffle(records)
    second = split_pairs(make_pairs(records), split_settings())
    assert questions_of(first) == questions_of(second)
    assert list(first.passages) == list(second.passages)
    assert first.documents == second.documents
    other_seed = split_pairs(make_pairs(records), split_settings(conversion_seed=1))
    assert other_seed.documents != first.documents


def test_the_order_of_records_of_one_document_does_not_matter(make_pairs):
    more = [record("doc03", ["passage 3 one", "passage 3 two"], [(f"more {n}", [1])]) for n in range(4)]
    first = split_pairs(make_pairs([*simple_records(5), *more]), split_settings())
    second = split_pairs(make_pairs([*reversed(more), *simple_records(5)]), split_settings())
    assert questions_of(first) == questions_of(second)


def test_question_ids_count_every_pair_and_do_not_depend_on_the_threshold(make_pairs):
    records = [
        record(f"d{n}", ["a", f"b{n}"], [(f"low {n}", [2]), (f"high {n}", [2])], [3, 9]) for n in range(5)
    ]
    for threshold in (0, 7):
        data = split_pairs(make_pairs(records), split_settings(quality_threshold=threshold))
        ids = {text: name for each in questions_of(data).values() for name, text in each}
        assert [ids[f"high {n}"] for n in range(5)] == ["q1", "q3", "q5", "q7", "q9"]


def test_what_cannot_be_used_is_left_out_and_counted(make_pairs):
    bad = record(
        "bad",
        ["one", "two", "three", " "],
        [
            ("kept", [1, 2, 1]),
            ("scored low", [1]),
            ("  ", [1]),
            ("no such segment", [9]),
            ("blank segment", [4]),
            ("no segment", []),
            ("too many", [1, 2, 3]),
        ],
        [7, 6.9, 9, 9, 9, 9, 9],
    )
    mismatch = record("mismatch", ["x"], [("a", [1]), ("b", [1])], [9])
    data = split_pairs(make_pairs([*simple_records(5), bad, mismatch]), split_settings(max_pos_docs=2))
    assert data.rejected.counts() == {
        "below_quality_threshold": 1,
        "empty_question": 1,
        "evaluations_do_not_match_pairs": 2,
        "more_than_max_pos_docs": 1,
        "segment_does_not_exist": 3,
    }
    row = {"reason": "segment_does_not_exist", "document": "bad", "question": "no such segment"}
    assert {**row, "where": "qa_records.jsonl:6"} in data.rejected.shown()
    assert len(data.rejected.rows) == 8
    assert not any(each["reason"] == "below_quality_threshold" for each in data.rejected.shown())
    kept = [each for part in data.questions.values() for each in part if each.document == "bad"]
    assert [(each.pair.question, each.positives) for each in kept] == [
        ("kept", (passage_id("one"), passage_id("two")))
    ]


def test_a_segment_number_that_two_texts_claim_does_not_exist(make_pairs):
    twice = record("twice", ["one", "two", "three"], [("which?", [1]), ("clear", [3])])
    twice.chunks[1].chunk_id = 1
    data = split_pairs(make_pairs([*simple_records(5), twice]), split_settings())
    assert data.rejected.counts() == {"segment_does_not_exist": 1}


def test_a_pair_that_comes_again_is_rejected_where_it_comes_again(make_pairs):
    records = [*simple_records(5), simple_records(5)[3]]
    data = split_pairs(make_pairs(records), split_settings())
    again = {"reason": "repeated_pair", "where": "qa_records.jsonl:6", "document": "doc03"}
    assert data.rejected.rows == [{**again, "question": f"question 3 {n}"} for n in ("one", "two")]
    assert sum(map(len, data.questions.values())) == 10
    # The same question about another passage, or another question about the same, is no repetition.
    more = record("doc05", ["a", "b"], [("x?", [1]), ("x?", [2]), ("y?", [1]), (" X? ", [1, 1])])
    data = split_pairs(make_pairs([*simple_records(5), more]), split_settings())
    assert [(row["reason"], row["question"]) for row in data.rejected.rows] == [("repeated_pair", " X? ")]


def test_a_source_id_that_two_texts_claim_is_that_of_one(make_pairs):
    records = [*simple_records(5), record("doc03", ["the text of another"], [("of what?", [1])])]
    data = split_pairs(make_pairs(records), split_settings())
    assert data.rejected.counts() == {"source_id_of_another_text": 1}
    assert data.rejected.rows[0]["where"] == "qa_records.jsonl:6"
    # More pairs about the same text are welcome.
    more = record("doc03", ["passage 3 one", "passage 3 two"], [("what more?", [1])])
    data = split_pairs(make_pairs([*simple_records(5), more]), split_settings())
    assert data.rejected.rows == []
    assert sum(map(len, data.questions.values())) == 11


def check_no_leak(records, data):
    """The promise, checked from the records themselves."""
    texts_of = {each.source_id: {chunk.text for chunk in each.chunks} for each in records}
    held_out = {d for d, split in data.documents.items() if split != "train"}
    test_texts = {text for d in held_out if data.documents[d] == "test" for text in texts_of[d]}
    test_answers = {p for each in data.questions["test"] for p in each.positives}
    train_answers = {p for each in data.questions["train"] for p in each.positives}
    assert not {passage_id(text) for text in test_texts} & train_answers
    assert not test_answers & train_answers
    hidden = set(data.held_out_passages())
    assert test_answers <= hidden
    assert not train_answers & hidden
    train_texts = {text for d, split in data.documents.items() if split == "train" for text in texts_of[d]}
    held_out_texts = {text for d in held_out for text in texts_of[d]}
    assert hidden == {passage_id(text) for text in held_out_texts - train_texts}
    test_questions = {each.pair.question for each in data.questions["test"]}
    assert not test_questions & {each.pair.question for each in data.questions["train"]}


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 10**6))
def test_no_answer_and_no_question_of_the_eval_set_is_in_training(make_pairs, seed):
    draw = random.Random(seed)
    pool = [f"shared {number}" for number in range(12)]
    records = []
    for number in range(draw.randint(3, 14)):
        chunks = [*draw.sample(pool, draw.randint(0, 2)), f"own {number}"]
        pairs = [
            (draw.choice([f"question {number}", "the same everywhere"]), [draw.randint(1, len(chunks))])
            for _ in range(draw.randint(1, 3))
        ]
        records.append(record(f"doc{number}", chunks, pairs))
    try:
        data = split_pairs(make_pairs(records), split_settings())
    except PrepError:
        assume(False)  # what is shared ties nearly all documents together
    assert set(data.documents.values()) == {"train", "val", "test"}
    check_no_leak(records, data)


def test_a_passage_that_answers_nothing_does_not_tie_documents_together(make_pairs):
    records = [record(f"d{n}", ["licence text", f"own {n}"], [(f"q {n}", [2])]) for n in range(10)]
    data = split_pairs(make_pairs(records), split_settings())
    sizes = [len(part) for part in data.questions.values()]
    assert sizes == [6, 2, 2]
    assert passage_id("licence text") not in data.held_out_passages()
    check_no_leak(records, data)


def test_too_few_documents_names_counts_and_what_to_change(make_pairs):
    records = [
        *simple_records(2),
        record("low", ["x"], [("y", [1])], [2]),
    ]
    with pytest.raises(
        PrepError, match=r"2 of 3 have usable questions.*quality_threshold.*1 questions.*val_ratio=0"
    ):
        split_pairs(make_pairs(records), split_settings())
    data = split_pairs(make_pairs(records), split_settings(train_ratio=0.8, val_ratio=0.0))
    assert sorted(data.documents.values()) == ["test", "train"]


def test_no_question_left_says_why(make_pairs):
    with pytest.raises(PrepError, match=r"4 below_quality_threshold.*quality_threshold \(now 9\.5\)"):
        split_pairs(make_pairs(simple_records(2)), split_settings(quality_threshold=9.5))


def test_scores_of_another_scale_are_explained(make_pairs):
    records = simple_records(2)
    for each in records:
        for evaluation in each.qa_evaluations.evaluations:
            evaluation.overall.score = 0.8
    with pytest.raises(PrepError, match=r"All scores lie between 0 and 1, and 0 to 10 is meant"):
        split_pairs(make_pairs(records), split_settings())


def test_a_broken_line_is_named(make_pairs):
    pairs = make_pairs(simple_records(3))
    with pairs.records.open("a") as stream:
        stream.write('{"file_name": "x"')
    with pytest.raises(RecordError, match=r"qa_records.jsonl:4"):
        split_pairs(pairs, split_settings())
