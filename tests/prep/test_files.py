"""Imported sets (BEIR folders, training files, mined files), and freezing."""

import json
import shutil

import pytest

from assets_pkg.prep.errors import PrepError
from assets_pkg.prep.eval_set import (
    freeze,
    frozen_eval_set,
    import_beir,
    import_eval_set,
    read_fixed_eval_set,
    release,
)
from assets_pkg.prep.leakage import find_leaks
from assets_pkg.prep.mining import mine_hard_negatives
from assets_pkg.prep.split import FixedEvalSet
from assets_pkg.prep.training_set import (
    import_training_file,
    training_file_fingerprint,
    write_eval_set,
    write_training_set,
)
from storage.artifact_store import ArtifactStore
from storage.digests import digest_file
from storage.formats.beir import BeirDocument, BeirError, BeirQuery, read_documents, read_qrels, write_beir
from storage.formats.retriever_json import (
    PassageRef,
    RetrieverExample,
    RetrieverFileError,
    read_retriever_file,
    write_corpus,
    write_retriever_file,
)

from .conftest import (
    eval_set_at,
    mining_settings,
    read_json,
    record,
    simple_records,
    split_settings,
    training_set_at,
)

NOTHING = FixedEvalSet(frozenset(), (), ())


@pytest.fixture
def sets(make_pairs, tmp_path):
    """A training set and an eval set, split from the same pairs."""
    pairs = make_pairs(simple_records(10))
    train, eval_set = tmp_path / "train", tmp_path / "eval_set"
    train.mkdir(), eval_set.mkdir()
    write_training_set(pairs, split_settings(), train)
    write_eval_set(pairs, split_settings(), eval_set)
    return train, eval_set


def digests(folder, names):
    return {name: digest_file(folder / name) for name in names}


def test_an_eval_set_imported_again_is_the_same_to_the_byte(sets, tmp_path):
    _, eval_set = sets
    names = ["eval_beir/corpus.jsonl", "eval_beir/queries.jsonl", "eval_beir/qrels/test.tsv"]
    for number, path in enumerate((eval_set, eval_set / "eval_beir")):
        folder = tmp_path / f"imported{number}"
        folder.mkdir()
        import_beir(path, folder)
        assert digests(folder, names) == digests(eval_set, names)
        assert read_json(folder / "summary.json")["test_questions"] == 4


def test_group_ids_are_the_ids_of_the_eval_set_and_of_its_judgements(make_pairs, tmp_path):
    write_eval_set(make_pairs(simple_records(10)), split_settings(), tmp_path, use_group_id=True)
    documents = list(read_documents(tmp_path / "eval_beir"))
    assert all(each.doc_id == each.group_id and each.doc_id.startswith("d_") for each in documents)
    judged = {name for each in read_qrels(tmp_path / "eval_beir").values() for name in each}
    assert len(judged) == 4
    assert judged <= {each.doc_id for each in documents}


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        (
            "qrels/test.tsv",
            "\td",
            "\tgone",
            r"qrels: \d+ of \d+ answers are not in corpus.jsonl, the first is gone\d+ of query q\d+",
        ),
        ("qrels/test.tsv", "\nq", "\nx", r"test.tsv: query x\d+ is judged, and queries.jsonl has no text"),
        ("qrels/test.tsv", "\t1\n", "\t0\n", r"test.tsv: no query has a relevant document"),
        ("corpus.jsonl", '"d1"', '"d0"', r"corpus.jsonl: row 2: _id 'd0' comes twice"),
    ],
)
def test_a_beir_folder_that_cannot_be_an_eval_set_says_where(sets, tmp_path, file, old, new, message):
    _, eval_set = sets
    path = eval_set / "eval_beir" / file
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises((PrepError, BeirError), match=message):
        import_beir(eval_set, tmp_path)


def test_what_published_folders_have_is_taken_and_counted(tmp_path):
    """ArguAna: every query is a document, and one answer is in no corpus."""
    documents = [BeirDocument(f"a{number}", f"argument {number}") for number in range(200)]
    queries = [BeirQuery(each.doc_id, each.text) for each in documents]
    qrels = {f"a{number}": {f"a{(number + 1) % 200}": 1} for number in range(200)}
    write_beir(tmp_path / "given", documents, queries, qrels | {"a7": {"gone": 1}})
    (tmp_path / "taken").mkdir()
    import_beir(tmp_path / "given", tmp_path / "taken")
    summary = read_json(tmp_path / "taken" / "summary.json")
    assert (summary["questions_that_are_documents"], summary["answers_not_in_corpus"]) == (200, 1)
    assert read_qrels(tmp_path / "taken" / "eval_beir")["a7"] == {"gone": 1}


def test_a_cut_beir_line_says_where(sets, tmp_path):
    _, eval_set = sets
    path = eval_set / "eval_beir" / "queries.jsonl"
    path.write_text(path.read_text()[:-30])
    with pytest.raises(BeirError, match=r"queries.jsonl:4: not JSON"):
        import_beir(eval_set, tmp_path)


def test_an_eval_set_is_frozen_kept_and_released(sets, tmp_path):
    _, eval_set = sets
    store = ArtifactStore(tmp_path / "root")
    assert frozen_eval_set(store) is None
    imported = import_eval_set(store, eval_set)
    assert frozen_eval_set(store) == imported
    assert ("eval_set", imported.version) in store.linked()  # so that gc keeps it
    freeze(store, imported)
    release(store)
    assert frozen_eval_set(store) is None


def test_a_training_file_imported_again_is_the_same(sets, tmp_path):
    train, eval_set = sets
    folder = tmp_path / "imported"
    folder.mkdir()
    import_training_file(train / "train.json", read_fixed_eval_set(eval_set_at(eval_set)), folder)
    names = ["train.json", "val.json", "corpus/train.parquet", "corpus/merlin_metadata.json"]
    assert digests(folder, names) == digests(train, names)
    assert len(read_json(folder / "splits.json")["held_out_passages"]) == 4
    assert find_leaks(training_set_at(folder), eval_set_at(eval_set)).total == 0


def test_the_fingerprint_is_of_the_file_its_validation_and_its_corpus(sets):
    train, _ = sets
    seen = {training_file_fingerprint(train / "train.json")}
    for change in (
        lambda: (train / "train.json").write_text((train / "train.json").read_text() + "\n"),
        lambda: (train / "val.json").unlink(),
        lambda: write_corpus(train / "corpus", [("d", "t")]),
    ):
        change()
        seen.add(training_file_fingerprint(train / "train.json"))
    assert len(seen) == 4


def question(**changes):
    row = {"question_id": "q1", "question": "what", "corpus_id": "c", "pos_doc": [{"id": "p"}], "neg_doc": []}
    return {**row, **changes}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], r"train.json: data is empty"),
        ([question(question=" ")], r"train.json: question q1: 'question' must be text"),
        ([question(question=7)], r"train.json: question number 0: question: Input should be a valid string"),
        ([question(pos_doc=[])], r"train.json: question q1: 'pos_doc' is empty"),
        ([question(pos_doc=[{"id": "gone"}])], r"question q1: pos_doc: passage gone is not in the corpus"),
        ([question(neg_doc=[{"id": "gone"}])], r"question q1: neg_doc: passage gone is not in the corpus"),
        ([question(), question()], r"train.json: question_id 'q1' comes 2 times"),
    ],
)
def test_a_training_file_that_cannot_be_used_says_where(tmp_path, rows, message):
    write_corpus(tmp_path / "corpus", [("p", "text")])
    (tmp_path / "train.json").write_text(json.dumps({"corpus": {"path": "./corpus/"}, "data": rows}))
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises((PrepError, RetrieverFileError), match=message):
        import_training_file(tmp_path / "train.json", NOTHING, out)


TOPICS = ("boiler", "kiln", "loom", "ferry")
"""Of the examples in Automodel's guide, "Retrieval Dataset"."""


def as_in_the_guide(number, positive, negatives):
    row = {"question_id": f"q{number}", "question": f"how often is the {TOPICS[number]} cleaned"}
    return {**row, "corpus_id": "handbook", "pos_doc": [positive], **negatives}


@pytest.mark.parametrize("corpus", [{"path": "./handbook/"}, [{"path": "./handbook/"}, {"path": "./more/"}]])
@pytest.mark.parametrize("bare", [False, True])
@pytest.mark.parametrize("negatives", [{"neg_doc": ["d0"]}, {"neg_doc": []}, {}])
def test_every_form_of_the_trainers_guide_is_taken(tmp_path, corpus, bare, negatives):
    texts = {f"d{number}": f"The {topic} is cleaned {number} times." for number, topic in enumerate(TOPICS)}
    write_corpus(tmp_path / "handbook", texts.items())
    write_corpus(tmp_path / "more", [("e0", "It opens at noon."), ("d0", texts["d0"])])

    def named(name):
        return name if bare else {"id": name}

    given = {key: [named(name) for name in names] for key, names in negatives.items()}
    rows = [as_in_the_guide(number, named(f"d{number}"), given) for number in range(1, 4)]
    (tmp_path / "train.json").write_text(json.dumps({"corpus": corpus, "data": rows}))
    out = tmp_path / "out"
    out.mkdir()
    import_training_file(tmp_path / "train.json", NOTHING, out)
    taken = read_retriever_file(out / "train.json")
    assert [each.positives for each in taken.examples] == [(PassageRef(f"d{n}"),) for n in range(1, 4)]
    expected = tuple(PassageRef(name) for name in negatives.get("neg_doc", []))
    assert {each.negatives for each in taken.examples} == {expected}
    more = {"e0": "It opens at noon."} if isinstance(corpus, list) else {}
    assert dict(taken.passages()) == texts | more


def test_corpora_whose_ids_mean_different_texts_are_refused(tmp_path):
    write_corpus(tmp_path / "a", [("d0", "one")])
    write_corpus(tmp_path / "b", [("d0", "another")])
    row = as_in_the_guide(0, "d0", {})
    (tmp_path / "train.json").write_text(
        json.dumps({"corpus": [{"path": "a"}, {"path": "b"}], "data": [row]})
    )
    with pytest.raises(PrepError, match=r"/b: row 1: id 'd0' comes twice .*this corpus or another"):
        import_training_file(tmp_path / "train.json", NOTHING, tmp_path)


def test_rows_that_hold_their_passages_are_pairs(tmp_path):
    (tmp_path / "inline.jsonl").write_text(json.dumps({"query": "q", "pos_doc": "p", "neg_doc": ["n"]}))
    with pytest.raises(RetrieverFileError, match=r"inline.jsonl: .* sdg_input_path="):
        import_training_file(tmp_path / "inline.jsonl", NOTHING, tmp_path)


@pytest.mark.parametrize("cut", ["train.json", "corpus/train.parquet"])
def test_a_cut_training_file_is_named(sets, tmp_path, cut):
    train, _ = sets
    (train / cut).write_bytes((train / cut).read_bytes()[:-20])
    with pytest.raises(RetrieverFileError, match=cut):
        import_training_file(train / "train.json", NOTHING, tmp_path)


@pytest.mark.parametrize("scored", [True, False])
def test_a_mined_file_keeps_its_negatives_but_for_the_eval_sets(tmp_path, scored):
    source, imported, mined = tmp_path / "source", tmp_path / "imported", tmp_path / "mined"
    source.mkdir(), imported.mkdir(), mined.mkdir()
    write_corpus(source / "corpus", [(name, f"text {name}") for name in "pnmx"])
    shutil.move(source / "corpus" / "train.parquet", source / "corpus" / "part-0.parquet")  # any name will do

    def score(value):
        return value if scored else None

    negatives = (PassageRef("n", score(0.5)), PassageRef("x", score(0.4)), PassageRef("m", score(0.3)))
    example = RetrieverExample("q0_0", "what", (PassageRef("p", score(0.9)),), negatives)
    write_retriever_file(source / "mined.json", [example], {"by": "others"})
    import_training_file(source / "mined.json", FixedEvalSet(frozenset(), ("text x",), ()), imported)
    mine_hard_negatives(training_set_at(imported), NoEncoder(), mining_settings(), mined)
    got = read_retriever_file(mined / "train_mined.automodel.json")
    assert [each.passage_id for each in got.examples[0].negatives] == ["n", "m"]
    assert got.mining == {"by": "others"}
    summary = read_json(mined / "summary.json")
    assert (summary["negatives_of_held_out_documents"], summary["questions_with_fewer_negatives"]) == (1, 1)
    assert (mined / "scores.png").exists() is scored


class NoEncoder:
    """What is mined already needs no model."""


def test_near_duplicates_between_sets_are_counted_and_shown(make_pairs, tmp_path):
    words = [f"w{n}" for n in range(40)]
    answer, near = " ".join(words), " ".join([*words[:-1], "changed"])
    trained = record("a", [answer], [("how is the pump sealed against the rising water", [1])])
    asked = record(
        "b", [near, "else"], [("how is the pump sealed against the rising waters", [1]), ("apart", [2])]
    )
    train, eval_set = tmp_path / "train", tmp_path / "eval_set"
    train.mkdir(), eval_set.mkdir()
    write_training_set(make_pairs([trained]), split_settings(train_ratio=1, val_ratio=0, test_ratio=0), train)
    write_eval_set(make_pairs([asked]), split_settings(train_ratio=0, val_ratio=0, test_ratio=1), eval_set)
    leaks = find_leaks(training_set_at(train), eval_set_at(eval_set), 0.7)
    assert (leaks.total, leaks.near_questions, leaks.near_answers, leaks.near_share) == (0, 1, 1, 0.5)
    assert [(each["kind"], each["in_training"]) for each in leaks.near_samples] == [
        ("question", "how is the pump sealed against the rising water"),
        ("answer", answer),
    ]
    assert find_leaks(training_set_at(train), eval_set_at(eval_set), 0.99).near_share == 0
