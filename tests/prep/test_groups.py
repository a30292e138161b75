import json
import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from assets_pkg.prep.errors import PrepError
from assets_pkg.prep.groups import Groups, read_groups
from assets_pkg.prep.near_duplicates import near_pairs, near_pairs_within, shingles, similarity
from assets_pkg.prep.split import FixedEvalSet, split_pairs

from .conftest import record, simple_records, split_settings

PATHS = {
    "a/one.md": ["a/one.md"],
    "a/two.md": ["a/two.md"],
    "b/two.txt": ["b/two.txt"],
    "b/three.md": ["b/three.md"],
    "bundle": ["c/four.md", "c/five.md"],
}


def groups_file(folder, content):
    path = folder / "groups.json"
    path.write_text(json.dumps(content))
    return path


def sentence(rng, words=60):
    return " ".join(rng.choice(VOCABULARY) for _ in range(words))


VOCABULARY = [f"word{number}" for number in range(400)]


def edited(rng, text, changes):
    words = text.split()
    for position in rng.sample(range(len(words)), changes):
        words[position] = f"other{rng.randrange(10**9)}"
    return " ".join(words)


# ---- groups in a file ----------------------------------------------------------------------------------------


@settings(max_examples=50)
@given(st.lists(st.lists(st.integers(0, 12), min_size=1, max_size=4), max_size=10))
def test_union_find_equals_connected_components(joins):
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    groups = Groups(f"{n:02}" for n in range(13))
    edges = [(each[0], other) for each in joins for other in each]
    for each in joins:
        groups.join(f"{n:02}" for n in each)
    rows, columns = zip(*edges, strict=True) if edges else ((), ())
    _, labels = connected_components(coo_matrix(([1] * len(rows), (rows, columns)), shape=(13, 13)), False)
    want = sorted([f"{n:02}" for n in range(13) if labels[n] == label] for label in set(labels))
    assert groups.to_lists() == want


@pytest.mark.parametrize(
    ("name", "document"),
    [
        ("a/one.md", "a/one.md"),
        ("a\\one.md", "a/one.md"),
        ("./a/one.md", "a/one.md"),
        ("b/two", "b/two.txt"),
        ("b/two.pdf", "b/two.txt"),
        ("/other/three.md", "b/three.md"),
        ("three", "b/three.md"),
        ("c/five.md", "bundle"),
    ],
)
def test_names_are_found_by_path_then_without_extension_then_by_file_name(tmp_path, name, document):
    path = groups_file(tmp_path, {"exact": {"groups": {"g": [name, "unknown.md"]}}})
    assert read_groups([path], PATHS, may_overlap=True) == [[document]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"exact": {"groups": {"g": ["two"]}}}, r"exact.groups.g: 'two' is ambiguous.*a/two.md, b/two.txt"),
        ({"fuzzy": {"clusters": {"g": ["nothing"]}}}, r"none of its names is a document"),
        ({"other": {}}, r"groups.json: must be \{"),
        ({"exact": {"groups": ["a"]}}, r"groups.json: must be \{"),
        ({"exact": {"groups": {"g": "a/one.md"}}}, r"exact.groups.g: must be a list of document names"),
    ],
)
def test_groups_that_cannot_be_used_are_errors(tmp_path, content, message):
    with pytest.raises(PrepError, match=message):
        read_groups([groups_file(tmp_path, content)], PATHS, may_overlap=True)


def test_a_cut_groups_file_is_named(tmp_path):
    path = tmp_path / "groups.json"
    path.write_text('{"exact": {')
    with pytest.raises(PrepError, match=r"groups.json: not readable as JSON"):
        read_groups([path], PATHS, may_overlap=True)


def test_clusters_may_not_overlap(tmp_path):
    content = {"semantic": {"clusters": {"g": ["a/one.md"], "h": ["a/one.md", "b/three.md"]}}}
    path = groups_file(tmp_path, content)
    with pytest.raises(PrepError, match=r"a/one.md is in semantic.clusters.g and in semantic.clusters.h"):
        read_groups([path], PATHS, may_overlap=False)
    assert read_groups([path], PATHS, may_overlap=True) == [["a/one.md"], ["a/one.md", "b/three.md"]]


@pytest.mark.parametrize("strategy", ["dedupped", "cluster"])
def test_groups_of_the_file_are_never_parted_whatever_the_order(make_pairs, tmp_path, strategy):
    records = simple_records(20)
    chain = {"g": ["doc00", "doc01"], "h": ["doc01", "doc02"] if strategy == "dedupped" else ["doc02"]}
    big = {"k": [f"doc{n:02}" for n in range(10, 16)]}
    path = groups_file(tmp_path, {"fuzzy": {"groups": chain}, "semantic": {"clusters": big}})
    wanted = split_settings(split_strategy=strategy, groups_json=str(path))
    data = split_pairs(make_pairs(records), wanted)
    together = [["doc00", "doc01", *(["doc02"] if strategy == "dedupped" else [])], big["k"]]
    for group in together:
        assert len({data.documents[name] for name in group}) == 1
    random.Random(1).shuffle(records)
    assert split_pairs(make_pairs(records), wanted).documents == data.documents
    # The heaviest group goes to the split that is furthest below its share: training.
    assert data.documents["doc10"] == "train"
    sizes = {name: len(each) for name, each in data.questions.items()}
    assert sizes == {"train": 24, "val": 8, "test": 8}


# ---- groups found ----------------------------------------------------------------------------------------------


def test_similarity_is_the_jaccard_index_of_three_word_shingles():
    assert similarity(shingles("a b c d"), shingles("A, b: c d!")) == 1
    assert similarity(shingles("a b c d"), shingles("b c d e")) == pytest.approx(1 / 3)
    assert similarity(shingles("a"), shingles("b")) == 0
    assert similarity(shingles(""), shingles("")) == 0


def test_near_pairs_are_those_that_comparing_all_finds():
    rng = random.Random(0)
    texts = [sentence(rng) for _ in range(150)]
    texts += [edited(rng, texts[n % 150], n % 5) for n in range(100)]
    sets = [shingles(text) for text in texts]
    want = {(i, j) for i in range(250) for j in range(i + 1, 250) if similarity(sets[i], sets[j]) >= 0.8}
    found = {(pair.left, pair.right) for pair in near_pairs_within(texts, 0.8)}
    assert len(want) > 50
    assert found <= want
    assert len(want - found) <= 0.03 * len(want)
    first = near_pairs(texts[:5], texts[150:], 0.8)
    assert all(similarity(sets[p.left], sets[150 + p.right]) == pytest.approx(p.similarity) for p in first)


@pytest.mark.slow
@settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 10**6))
def test_planted_near_duplicates_never_straddle_the_split(make_pairs, seed):
    rng = random.Random(seed)
    records, copies = [], []
    for number in range(16):
        chunks = [sentence(rng) for _ in range(3)]
        records.append(
            record(f"doc{number:02}", chunks, [(f"about {chunks[0]}", [1]), (f"on {chunks[1]}", [2])])
        )
        if number % 4 == 0:  # a whole document again, a word changed
            again = [edited(rng, text, 1) for text in chunks]
            records.append(record(f"copy{number:02}", again, [(f"again {sentence(rng)}", [1])]))
            copies.append((f"doc{number:02}", f"copy{number:02}"))
        if number % 4 == 1:  # only the answer again
            others = [edited(rng, chunks[0], 1), sentence(rng)]
            records.append(record(f"part{number:02}", others, [(f"more {sentence(rng)}", [2])]))
            copies.append((f"doc{number:02}", f"part{number:02}"))
    data = split_pairs(make_pairs(records), split_settings(split_strategy="near_duplicate"))
    for first, second in copies:
        assert data.documents[first] == data.documents[second]
    rng.shuffle(records)
    assert (
        split_pairs(make_pairs(records), split_settings(split_strategy="near_duplicate")).documents
        == data.documents
    )


def test_near_questions_go_from_training_and_are_counted(make_pairs):
    rng = random.Random(3)
    question = sentence(rng, 80)
    records = [
        record(f"d{n}", [sentence(rng)], [(edited(rng, question, 1), [1]), (f"own {sentence(rng)}", [1])])
        for n in range(10)
    ]
    data = split_pairs(make_pairs(records), split_settings(split_strategy="near_duplicate"))
    assert [len(data.questions[name]) for name in ("train", "val", "test")] == [6, 2, 4]
    assert data.rejected.counts() == {"nearly_asked_in_a_held_out_document": 8}


# ---- an eval set that stays ------------------------------------------------------------------------------------------


def test_documents_and_answers_of_a_fixed_eval_set_stay_out_of_training(make_pairs):
    records = [*simple_records(10), record("twin", ["Passage 3  ONE", "x"], [("new", [2])])]
    eval_set = FixedEvalSet(frozenset({"doc00", "doc01"}), ("passage 3 one",), ("question 5 one",))
    data = split_pairs(make_pairs(records), split_settings(), eval_set=eval_set)
    held = {document for document, split in data.documents.items() if split == "test"}
    assert held == {"doc00", "doc01", "doc03", "twin"}
    assert sorted(set(data.documents.values())) == ["test", "train", "val"]
    asked = {each.pair.question for name in ("train", "val") for each in data.questions[name]}
    assert "question 5 one" not in asked
    assert data.rejected.counts() == {"asked_in_a_held_out_document_too": 1}


def test_freezing_the_eval_set_that_was_split_moves_nothing(make_pairs):
    pairs = make_pairs(simple_records(20))
    data = split_pairs(pairs, split_settings())
    tested = data.questions["test"]
    eval_set = FixedEvalSet(
        frozenset(name for each in tested for name in each.file_name),
        tuple(data.passages[name] for each in tested for name in each.positives),
        tuple(each.pair.question for each in tested),
    )
    again = split_pairs(pairs, split_settings(), eval_set=eval_set)
    assert again.documents == data.documents
    more = split_pairs(make_pairs(simple_records(30)), split_settings(), eval_set=eval_set)
    assert {d for d, split in more.documents.items() if split == "test"} == set(eval_set.documents)
