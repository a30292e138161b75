import contextlib
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.formats.beir import (
    BeirDocument,
    BeirError,
    BeirQuery,
    read_documents,
    read_qrels,
    read_queries,
    write_beir,
)
from storage.formats.json_values import parse_strict
from storage.formats.qa_records import RecordError, read_records, write_records
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


WORDS = st.text(alphabet='"\\\\:ab \u00e9\n', max_size=5)
"""Keys and texts of what JSON gives a meaning to, so that some look like the other."""

SPACES = st.sampled_from(["", " ", "\n"])


def members(values):
    """The texts of JSON objects that may have a key twice."""
    member = st.builds(
        lambda key, space, value, ascii: json.dumps(key, ensure_ascii=ascii) + space + ":" + space + value,
        *(WORDS, SPACES, values, st.booleans()),
    )
    return st.lists(member, max_size=3).map(lambda each: "{" + ", ".join(each) + "}")


TEXTS_OF_OBJECTS = st.recursive(
    st.one_of(WORDS.map(json.dumps), st.sampled_from(["null", "-1.5e3", "7"])),
    lambda values: (
        members(values) | st.lists(values, max_size=3).map(lambda each: "[" + ",".join(each) + "]")
    ),
    max_leaves=8,
)


def with_question(**changes):
    row = {"question_id": "q1", "question": "what", "pos_doc": [{"id": "p"}], "neg_doc": []}
    return json.dumps({"corpus": {"path": "c"}, "data": [{**row, **changes}]})


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
        ("qrels/test.tsv", "q1\td1\t1\nq1\td1\t1\nq1\td1\t0\n", r"test.tsv:3: .* judged 0, and 1 further up"),
        ("qrels/test.tsv", "q1\td1\t--5\n", r"test.tsv:1: must be"),
        ("qrels/test.tsv", "q1\td1\t\u00b2\n", r"test.tsv:1: must be"),
        ("qrels/test.tsv", "q1\td1\t" + "9" * 5000, r"test.tsv:1: must be"),
        ("qrels/test.tsv", "q1\t\t1\n", r"test.tsv:1: must be"),
        ("qrels/test.tsv", b"q1\td1\t1\nq\xfc\td1\t1\n", r"test.tsv:2: not UTF-8 \(byte 0xfc at 1\): save"),
        ("qrels/test.tsv", "q1\td1\t1\n".encode("utf-16"), r"test.tsv:1: not UTF-8 \(UTF-16\): save"),
        ("corpus.jsonl", b'{"_id": "1", "text": "\xfc"}', r"corpus.jsonl:1: not UTF-8 \(byte 0xfc"),
        ("corpus.jsonl", '{"_id": "1", "text": "t", "metadata": 3}', r"corpus.jsonl:1: metadata: .* is 3"),
        ("corpus.jsonl", '{"_id": "1", "text": "t", "metadata": [1]}', r"corpus.jsonl:1: metadata: "),
        ("corpus.jsonl", '{"_id": "1", "text": "t", "title": {}, "group_id": [1]}', r"jsonl:1: group_id"),
        ("corpus.jsonl", '{"_id": "1", "text": "t", "title": ["a"]}', r"corpus.jsonl:1: title: "),
        ("corpus.jsonl", '{"_id": "1", "text": null}', r"corpus.jsonl:1: text: .* is None"),
        (
            "corpus.jsonl",
            '{"_id": "1", "text": "t", "metadata": {"a": ' + "[" * 300 + "]" * 300 + "}}",
            r"corpus.jsonl:1: lists or objects are nested more than 100 deep",
        ),
        (
            "corpus.jsonl",
            '{"_id": "1", "text": "t"}\n{"_id": "2", "text": "t", "text": "u"}',
            r"jsonl:2: the key 'text' comes twice",
        ),
        (
            "queries.jsonl",
            '{"_id": "1", "_id": "2", "text": "t"}',
            r"queries.jsonl:1: the key '_id' comes twice",
        ),
        ("queries.jsonl", '{"_id": "1", "text": "\\ud800"}', r"queries.jsonl:1: not JSON"),
        ("queries.jsonl", "[" * 100_000, r"queries.jsonl:1: not JSON"),
    ],
)
def test_a_broken_beir_folder_names_file_and_line(tmp_path, name, content, message):
    (tmp_path / "qrels").mkdir()
    if content is not None:
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    read = {"corpus.jsonl": read_documents, "queries.jsonl": read_queries}.get(name, read_qrels)
    with pytest.raises(BeirError, match=message):
        list(read(tmp_path))


@given(TEXTS_OF_OBJECTS)
def test_a_key_that_comes_twice_is_refused_and_no_other_text(text):
    objects = []
    expected = json.loads(text, object_pairs_hook=lambda pairs: objects.append(pairs) or dict(pairs))
    twice = any(len(dict(pairs)) < len(pairs) for pairs in objects)
    with pytest.raises(BeirError, match="comes twice") if twice else contextlib.nullcontext():
        assert parse_strict(text.encode(), "line", BeirError) == expected


def test_a_key_that_hides_a_value_nested_too_deep_is_refused():
    text = b'{"a": ' + b"[" * 1000 + b"]" * 1000 + b', "a": 1}'
    with pytest.raises(BeirError, match=r"nested more than 100 deep|comes twice"):
        parse_strict(text, "line", BeirError)


def test_beir_lines_end_at_line_feeds_alone_and_may_begin_with_a_byte_order_mark(tmp_path):
    text = "one\u2028two\u0085three\x1cfour"
    (tmp_path / "qrels").mkdir()
    line = json.dumps({"_id": "1", "text": text}, ensure_ascii=False) + "\r\n"
    for name in ("corpus.jsonl", "queries.jsonl"):
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + line.encode() + b"\n" + line.encode())
    (tmp_path / "qrels" / "test.tsv").write_text(
        "query-id\tcorpus-id\tscore\r\nq\u0085\t1\t1\r\n", "utf-8-sig"
    )
    assert [each.text for each in read_documents(tmp_path)] == [text, text]
    assert [each.text for each in read_queries(tmp_path)] == [text, text]
    assert read_qrels(tmp_path) == {"q\u0085": {"1": 1}}


def test_numbers_as_titles_and_ids_are_taken_as_before(tmp_path):
    (tmp_path / "corpus.jsonl").write_text('{"_id": "1", "text": "t", "title": 1984, "metadata": []}')
    assert list(read_documents(tmp_path)) == [BeirDocument("1", "t", "1984")]
    (tmp_path / "train.json").write_text(
        with_question(question_id=7, pos_doc=[{"id": 3, "score": 1}], neg_doc=[{"id": "n", "score": 0.5}])
    )
    (example,) = read_retriever_file(tmp_path / "train.json").examples
    assert example == RetrieverExample(7, "what", (PassageRef("3", 1),), (PassageRef("n", 0.5),))
    assert isinstance(example.positives[0].score, int)


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
    assert (back.examples, back.mining, back.corpora) == (MINED, {"k": 1}, (tmp_path / "corpus",))
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
        ("{", r"train.json: not JSON"),
        ('{"data": []}', r"train.json: not a retriever file"),
        ("[1]", r"train.json: not a retriever file"),
        (
            '{"corpus": {"path": "c"}, "data": [{"question_id": "q0"}]}',
            r"train.json: question number 0: question: Field required",
        ),
        ('{"corpus": {"path": "c"}, "data": null}', r"train.json: not a retriever file .*data: "),
        ('{"corpus": {"path": "c"}, "data": 7}', r"train.json: not a retriever file .*data: "),
        ('{"corpus": {"path": 7}, "data": []}', r"train.json: not a retriever file .*corpus.0.path: "),
        ('{"corpus": {"path": "c"}, "data": [], "mining": []}', r"train.json: .*mining: "),
        (with_question(question_id=["q"]), r"question number 0: question_id"),
        (with_question(question_id=None), r"question number 0: question_id"),
        (with_question(question=None), r"question number 0: question: "),
        (with_question(pos_doc=None), r"question number 0: pos_doc: "),
        (with_question(pos_doc=[{"id": ["p"]}]), r"question number 0: pos_doc.0.id"),
        (with_question(pos_doc=[{"id": None}]), r"question number 0: pos_doc.0.id"),
        (with_question(neg_doc=[{"id": "p", "score": "high"}]), r"question number 0: neg_doc.0.score"),
        ('{"corpus": ' + "[" * 300 + "]" * 300 + "}", r"train.json: .*nested more than 100 deep"),
        ('{"corpus": "\\ud800"}', r"train.json: not JSON"),
        (with_question()[:-1] + ', "data": []}', r"train.json: the key 'data' comes twice"),
        (b'{"corpus": {"path": "\xfc"}}', r"train.json: not UTF-8 \(byte 0xfc at 21\)"),
    ],
)
def test_a_broken_retriever_file_is_named(tmp_path, content, message):
    if content is not None:
        (tmp_path / "train.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(RetrieverFileError, match=message):
        read_retriever_file(tmp_path / "train.json")


def test_a_corpus_of_several_row_groups_comes_back(tmp_path, monkeypatch):
    monkeypatch.setattr("storage.formats.retriever_json._ROWS_PER_GROUP", 3)
    passages = [(f"d_{number}", f"text {number}") for number in range(8)]
    assert write_corpus(tmp_path, passages) == 8
    assert list(read_corpus(tmp_path)) == passages


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"id": ["a", "b"], "text": ["t", None]}, r"train.parquet: row 2: text: must be text, is null"),
        ({"id": ["a"], "text": [b"\xfc"]}, r"train.parquet: row 1: text: must be text, is bytes"),
        ({"id": [None], "text": ["t"]}, r"train.parquet: row 1: id: must be text, is null"),
        ({"id": [["a"]], "text": ["t"]}, r"train.parquet: row 1: id: must be text, is list"),
        ({"name": ["a"], "text": ["t"]}, r"train.parquet: has no column id; it has name, text"),
    ],
)
def test_a_corpus_with_other_values_names_row_and_column(tmp_path, columns, message):
    pq.write_table(pa.table(columns), tmp_path / "train.parquet")
    with pytest.raises(RetrieverFileError, match=message):
        list(read_corpus(tmp_path))


DAMAGE = st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=4)


def damaged(data, places, cut):
    spoilt = bytearray(data)
    for place, value in places:
        spoilt[place % len(spoilt)] = value
    return bytes(spoilt[: len(spoilt) - cut % len(spoilt)])


@given(places=DAMAGE, cut=st.integers(0, 40))
def test_damaged_training_files_and_corpora_are_foreseen(tmp_path_factory, places, cut):
    folder = tmp_path_factory.mktemp("damaged")
    write_retriever_file(folder / "train.json", MINED, {"k": 1})
    path = folder / "train.json"
    path.write_bytes(damaged(path.read_bytes(), places, cut))
    with contextlib.suppress(RetrieverFileError):
        write_retriever_file(folder / "again.json", read_retriever_file(path).examples)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4) | st.just("\ud800"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
BEIR_FIELDS = st.dictionaries(st.sampled_from(["_id", "text", "title", "metadata", "group_id"]), VALUES)


@pytest.mark.slow
@given(row=BEIR_FIELDS | VALUES, known=st.booleans(), qrels=st.binary(max_size=30) | st.text(max_size=30))
def test_any_beir_folder_is_read_or_refused_in_words(tmp_path_factory, row, known, qrels):
    folder = tmp_path_factory.mktemp("beir")
    (folder / "qrels").mkdir()
    whole = {"_id": "1", "text": "t", **row} if known and isinstance(row, dict) else row
    for name in ("corpus.jsonl", "queries.jsonl"):
        (folder / name).write_text(json.dumps(whole))
    (folder / "qrels" / "test.tsv").write_bytes(qrels if isinstance(qrels, bytes) else qrels.encode())
    with contextlib.suppress(BeirError):
        write_beir(folder / "again", read_documents(folder), read_queries(folder), {})
    with contextlib.suppress(BeirError):
        read_qrels(folder)


RECORD_FIELDS = st.dictionaries(
    st.sampled_from(["file_name", "text", "chunks", "deduplicated_qa_pairs", "qa_evaluations"]), VALUES
)


@given(row=RECORD_FIELDS)
def test_any_record_is_read_or_refused_in_words(tmp_path_factory, row):
    folder = tmp_path_factory.mktemp("records")
    base = {"file_name": "a", "source_id": "a", "chunks": [], "deduplicated_qa_pairs": []}
    line = json.dumps({**base, "qa_evaluations": {"evaluations": []}, **row})
    (folder / "a.jsonl").write_text(line)
    with contextlib.suppress(RecordError):
        write_records(folder / "b.jsonl", read_records(folder / "a.jsonl"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"file_name": []}, r"a.jsonl:1: file_name: "),
        ({"qa_evaluations": None}, r"a.jsonl:1: qa_evaluations: "),
        ({"chunks": [{"text": "t", "chunk_id": 10**30}]}, r"a.jsonl:1: chunks.0.chunk_id: "),
    ],
)
def test_a_record_that_cannot_be_used_names_the_field(tmp_path, changes, message):
    base = {"file_name": "a", "source_id": "a", "chunks": [], "deduplicated_qa_pairs": []}
    row = {**base, "qa_evaluations": {"evaluations": []}, **changes}
    (tmp_path / "a.jsonl").write_text(json.dumps(row))
    with pytest.raises(RecordError, match=message):
        list(read_records(tmp_path / "a.jsonl"))


def test_a_missing_or_broken_corpus_is_named(tmp_path):
    with pytest.raises(RetrieverFileError, match=r"train.parquet"):
        list(read_corpus(tmp_path))
    (tmp_path / "train.parquet").write_bytes(b"PAR1 but not really")
    with pytest.raises(RetrieverFileError, match=r"train.parquet: not a Parquet file"):
        list(read_corpus(tmp_path))
