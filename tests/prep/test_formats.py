import json

import pytest

from storage.formats.beir import (
    BeirDocument,
    BeirError,
    BeirQuery,
    read_documents,
    read_qrels,
    read_queries,
    write_beir,
)
from storage.formats.retriever_json import (
    PassageRef,
    RetrieverExample,
    RetrieverFileError,
    read_corpus,
    read_retriever_file,
    unroll,
    write_corpus,
    write_retriever_file,
)

MINED = [
    RetrieverExample(
        "q7", "two answers", (PassageRef("d_1", 0.75), PassageRef("d_2", 0.5)), (PassageRef("d_3", 0.25),)
    ),
    RetrieverExample("q8", "one", (PassageRef("d_1", 0.5),)),
]


def test_beir_comes_back_as_it_was_written(tmp_path):
    documents = [BeirDocument("d0", 'tab\there "q"\nnew', "Título", {"group_id": 3}), BeirDocument("d1", "x")]
    queries = [BeirQuery("q0", "was?", {"answer": "☃"}), BeirQuery("q5", "unjudged")]
    qrels = {"q0": {"d0": 2, "d1": 0}}
    write_beir(tmp_path, documents, queries, qrels)
    assert list(read_documents(tmp_path)) == documents
    assert list(read_queries(tmp_path)) == queries
    assert read_qrels(tmp_path) == qrels


@pytest.mark.parametrize(
    ("title", "text", "joined"), [("A", "b", "A b"), ("", " b ", "b"), ("A", "", "A"), ("", "", "")]
)
def test_title_and_text_are_joined_as_the_field_does(title, text, joined):
    assert BeirDocument("d", text, title).joined == joined


def test_a_foreign_beir_folder_is_read(tmp_path):
    (tmp_path / "qrels").mkdir()
    (tmp_path / "corpus.jsonl").write_text(
        '{"_id": "1", "title": null, "text": "t"}\n\n{"_id": "2", "text": "u"}'
    )
    (tmp_path / "queries.jsonl").write_text('{"_id": "1", "text": "q", "metadata": null}\n')
    (tmp_path / "qrels" / "test.tsv").write_text("1\t2\t-1\r\n1\t1\t3\r\n")
    assert [each.joined for each in read_documents(tmp_path)] == ["t", "u"]
    assert list(read_queries(tmp_path)) == [BeirQuery("1", "q")]
    assert read_qrels(tmp_path) == {"1": {"2": -1, "1": 3}}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "corpus.jsonl",
            '{"_id": "1", "text": "t"}\n{"_id": 2, "text": "t"}',
            r"corpus.jsonl:2: _id: .* is 2",
        ),
        ("corpus.jsonl", '{"_id": "1"}', r"corpus.jsonl:1: text: "),
        ("corpus.jsonl", '{"_id": "1", ', r"corpus.jsonl:1: not JSON"),
        ("corpus.jsonl", "[]", r"corpus.jsonl:1: must be a JSON object"),
        ("queries.jsonl", None, r"queries.jsonl: no such file"),
        ("qrels/test.tsv", "query-id\tcorpus-id\tscore\nq1 d1 1\n", r"test.tsv:2: must be"),
        ("qrels/test.tsv", "query-id\tcorpus-id\tscore\nq1\td1\thigh\n", r"test.tsv:2: must be"),
    ],
)
def test_a_broken_beir_folder_names_file_and_line(tmp_path, name, content, message):
    (tmp_path / "qrels").mkdir()
    if content is not None:
        (tmp_path / name).write_text(content)
    read = {"corpus.jsonl": read_documents, "queries.jsonl": read_queries}.get(name, read_qrels)
    with pytest.raises(BeirError, match=message):
        list(read(tmp_path))


def test_a_retriever_file_has_the_loaders_layout(tmp_path):
    write_retriever_file(tmp_path / "mined.json", MINED, {"hard_neg_margin": 0.95})
    assert json.loads((tmp_path / "mined.json").read_text()) == {
        "corpus": {"path": "./corpus/"},
        "mining": {"args": {"hard_neg_margin": 0.95}},
        "data": [
            {
                "question_id": "q7",
                "question": "two answers",
                "corpus_id": "retune",
                "pos_doc": [{"id": "d_1", "score": 0.75}, {"id": "d_2", "score": 0.5}],
                "neg_doc": [{"id": "d_3", "score": 0.25}],
            },
            {
                "question_id": "q8",
                "question": "one",
                "corpus_id": "retune",
                "pos_doc": [{"id": "d_1", "score": 0.5}],
                "neg_doc": [],
            },
        ],
    }


def test_a_retriever_file_comes_back_as_it_was_written(tmp_path):
    write_retriever_file(tmp_path / "mined.json", MINED, {"k": 1})
    back = read_retriever_file(tmp_path / "mined.json")
    assert (back.examples, back.mining, back.corpus) == (MINED, {"k": 1}, tmp_path / "corpus")
    write_retriever_file(tmp_path / "empty.json", [])
    assert read_retriever_file(tmp_path / "empty.json").examples == []


def test_unrolled_has_one_positive_per_record():
    assert [(each.question_id, each.positives, each.negatives) for each in unroll(MINED)] == [
        ("q7_0", (PassageRef("d_1", 0.75),), (PassageRef("d_3", 0.25),)),
        ("q7_1", (PassageRef("d_2", 0.5),), (PassageRef("d_3", 0.25),)),
        ("q8", (PassageRef("d_1", 0.5),), ()),
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"train.json: no such file"),
        ("{", r"train.json: not a retriever file"),
        ('{"data": []}', r"train.json: not a retriever file"),
        ("[1]", r"train.json: not a retriever file"),
        (
            '{"corpus": {"path": "c"}, "data": [{"question_id": "q0"}]}',
            r"train.json: question number 0: .*question",
        ),
    ],
)
def test_a_broken_retriever_file_is_named(tmp_path, content, message):
    if content is not None:
        (tmp_path / "train.json").write_text(content)
    with pytest.raises(RetrieverFileError, match=message):
        read_retriever_file(tmp_path / "train.json")


def test_a_corpus_of_several_row_groups_comes_back(tmp_path, monkeypatch):
    monkeypatch.setattr("storage.formats.retriever_json._ROWS_PER_GROUP", 3)
    passages = [(f"d_{number}", f"text {number}") for number in range(8)]
    assert write_corpus(tmp_path, passages) == 8
    assert list(read_corpus(tmp_path)) == passages


def test_a_missing_or_broken_corpus_is_named(tmp_path):
    with pytest.raises(RetrieverFileError, match=r"train.parquet"):
        list(read_corpus(tmp_path))
    (tmp_path / "train.parquet").write_bytes(b"PAR1 but not really")
    with pytest.raises(RetrieverFileError, match=r"train.parquet: not a corpus"):
        list(read_corpus(tmp_path))
