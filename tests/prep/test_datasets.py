import json
import re
from pathlib import Path

import datasets
import pytest

from assets_pkg.prep.errors import PrepError
from assets_pkg.prep.leakage import find_leaks
from assets_pkg.prep.training_set import write_eval_set, write_training_set
from storage.artifacts import QAPairs, TrainingSet
from storage.digests import digest_file, passage_id
from storage.formats.retriever_json import read_corpus

from .conftest import eval_set_at, read_json, record, simple_records, split_settings, training_set_at

DATA = Path(__file__).parent / "recipe_converter"


@pytest.fixture
def made(make_pairs, tmp_path):
    """Both sets of one small set of pairs."""
    pairs = make_pairs(simple_records(10))
    train, eval_set = tmp_path / "train", tmp_path / "eval_set"
    train.mkdir(), eval_set.mkdir()
    write_training_set(pairs, split_settings(), train)
    write_eval_set(pairs, split_settings(), eval_set)
    return train, eval_set


def test_training_set_in_the_recipes_format(made):
    train, _ = made
    content = read_json(train / "train.json")
    assert content["corpus"] == {"path": "./corpus/"}
    assert len(content["data"]) == 12
    first = content["data"][0]
    assert set(first) == {"question_id", "question", "corpus_id", "pos_doc", "neg_doc"}
    texts = dict(read_corpus(train / "corpus"))
    assert len(texts) == 20  # every chunk of all splits
    assert all(name == passage_id(text) for name, text in texts.items())
    for row in content["data"]:
        assert row["neg_doc"] == []
        assert [texts[each["id"]] for each in row["pos_doc"]] == [
            row["question"].replace("question", "passage")
        ]
    assert read_json(train / "corpus" / "merlin_metadata.json") == {
        "corpus_id": first["corpus_id"],
        "class": "TextQADataset",
    }
    assert len(read_json(train / "val.json")["data"]) == 4
    splits = read_json(train / "splits.json")
    assert {name: len(documents) for name, documents in splits["documents"].items()} == {
        "train": 6,
        "val": 2,
        "test": 2,
    }
    assert len(splits["held_out_passages"]) == 8


def test_the_corpus_is_what_the_datasets_library_reads(made, tmp_path):
    train, _ = made
    loaded = datasets.load_dataset(str(train / "corpus"), split="train", cache_dir=str(tmp_path / "cache"))
    assert {row["id"]: row["text"] for row in loaded} == dict(read_corpus(train / "corpus"))


def test_the_eval_set_is_a_beir_folder(made):
    train, eval_set = made
    lines = [json.loads(line) for line in (eval_set / "eval_beir" / "queries.jsonl").read_text().splitlines()]
    corpus = [json.loads(line) for line in (eval_set / "eval_beir" / "corpus.jsonl").read_text().splitlines()]
    qrels = (eval_set / "eval_beir" / "qrels" / "test.tsv").read_text().splitlines()
    assert qrels[0] == "query-id\tcorpus-id\tscore"
    assert [row["_id"] for row in corpus] == [f"d{number}" for number in range(20)]
    assert set(corpus[0]) == {"_id", "title", "text", "metadata"}
    assert len(lines) == 4
    assert set(lines[0]["metadata"]) == {
        "query_type",
        "reasoning_type",
        "hop_count",
        "question_complexity",
        "quality_score",
        "answer",
        "hop_contexts",
        "file_name",
        "segment_ids",
    }
    text_of = {row["_id"]: row["text"] for row in corpus}
    question_of = {row["_id"]: row["text"] for row in lines}
    for line in qrels[1:]:
        query, document, score = line.split("\t")
        assert (text_of[document], score) == (question_of[query].replace("question", "passage"), "1")
    assert list(question_of) == ["q0", "q1", "q2", "q3"]
    trained = {
        row["question"] for name in ("train", "val") for row in read_json(train / f"{name}.json")["data"]
    }
    assert not trained & set(question_of.values())
    assert len(trained) + len(question_of) == 20


@pytest.mark.parametrize("whole", [False, True])
def test_the_recipes_converter_writes_the_same_bytes(tmp_path, whole):
    """``eval_beir`` and ``train.json`` are of ``run_conversion("records.jsonl", train_ratio=0.7, val_ratio=0.1)`` of
    NVIDIA NeMo's retrieval-sdg plugin 0.2.1; ``eval_beir_whole`` of the same records with rounded scores, and
    ``use_group_id_in_eval=True``."""
    expected = DATA / ("eval_beir_whole" if whole else "eval_beir")
    content = (DATA / "records.jsonl").read_text("utf-8")
    if whole:
        content = re.sub(
            r'("overall": {"score": )([0-9.]+)', lambda at: f"{at[1]}{round(float(at[2]))}", content
        )
    (tmp_path / "qa_records.jsonl").write_text(content, "utf-8")
    pairs = QAPairs(tmp_path, "synthetic_qa", "v")
    settings = split_settings(train_ratio=0.7, val_ratio=0.1, test_ratio=0.2)
    write_eval_set(pairs, settings, tmp_path, use_group_id=whole)
    for name in ("corpus.jsonl", "queries.jsonl", "qrels/test.tsv"):
        assert (tmp_path / "eval_beir" / name).read_bytes() == (expected / name).read_bytes(), name
    write_training_set(pairs, settings, tmp_path)
    made, theirs = read_json(tmp_path / "train.json")["data"], read_json(DATA / "train.json")["data"]
    assert [(row["question"], row["pos_doc"]) for row in made] == [
        (row["question"], row["pos_doc"]) for row in theirs
    ]


def test_the_same_input_gives_the_same_bytes_over_leftovers(made, make_pairs):
    train, eval_set = made
    folders = {train: write_training_set, eval_set: write_eval_set}
    before = {path: digest_file(path) for folder in folders for path in folder.rglob("*") if path.is_file()}
    for path in before:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    for folder, write in folders.items():
        write(make_pairs(list(reversed(simple_records(10)))), split_settings(), folder)
    assert {path: digest_file(path) for path in before} == before


def test_the_split_record_decides_the_version():
    assert TrainingSet.is_content("splits.json")


def test_summaries_count(made, make_pairs, tmp_path):
    train, eval_set = made
    assert read_json(train / "summary.json") == {
        "train_questions": 12,
        "train_documents": 6,
        "val_questions": 4,
        "val_documents": 2,
        "passages": 20,
        "held_out_passages": 8,
        "rejected": 0,
    }
    assert read_json(eval_set / "summary.json") == {
        "test_questions": 4,
        "test_documents": 2,
        "passages": 20,
        "positives_per_question": 1.0,
        "query_types": {"structural": 4},
    }


def test_an_eval_set_without_questions_is_an_error(make_pairs, tmp_path):
    with pytest.raises(PrepError, match=r"test_ratio"):
        write_eval_set(make_pairs(simple_records(4)), split_settings(train_ratio=0.8, test_ratio=0), tmp_path)


def test_a_clean_split_has_no_leaks(made):
    train, eval_set = made
    leaks = find_leaks(training_set_at(train), eval_set_at(eval_set))
    assert (leaks.total, leaks.samples) == (0, [])


def test_planted_leaks_are_counted_and_shown(make_pairs, tmp_path):
    """Two sets that were not split from the same pairs."""
    common = record("common", ["The Same  answer", "other"], [("What is THIS?", [1])])
    again = record("again", ["the same answer", "more"], [("what is  this?", [1]), ("fresh", [2])])
    train, eval_set = tmp_path / "train", tmp_path / "eval_set"
    train.mkdir(), eval_set.mkdir()
    only_train, only_test = (
        split_settings(train_ratio=1.0, val_ratio=0.0, test_ratio=0.0),
        split_settings(train_ratio=0.0, val_ratio=0.0, test_ratio=1.0),
    )
    write_training_set(make_pairs([common]), only_train, train)
    write_eval_set(make_pairs([again]), only_test, eval_set)
    splits = read_json(train / "splits.json")
    splits["held_out_passages"] = [passage_id("The Same  answer")]
    (train / "splits.json").write_text(json.dumps(splits))
    leaks = find_leaks(training_set_at(train), eval_set_at(eval_set))
    assert (leaks.questions, leaks.passages, leaks.held_out, leaks.total) == (1, 1, 1, 3)
    assert [sample["text"] for sample in leaks.samples] == [
        "what is  this?",
        "the same answer",
        "The Same  answer",
    ]
