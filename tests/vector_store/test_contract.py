"""Every vector store keeps one contract, checked against brute force."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from assets_pkg.retrieval.passage_rows import passage_rows
from resources.vector_store.base import IndexType, PassageIndex, VectorStoreError, index_schema
from resources.vector_store.lance import LanceIndex
from resources.vector_store.milvus import MilvusIndex, Owner
from resources.vector_store.milvus_collection import REQUEST_BYTES, request_parts

DIMENSIONS = 16
ROWS = 300
OURS = Owner("11", "/ours/output", "ours_current")
MILVUS = pytest.param("milvus", marks=pytest.mark.slow)
"""Milvus Lite is a server of its own for each file."""
THEIRS = Owner("22", "/theirs/output", "theirs_current")


@pytest.fixture(params=["lance", MILVUS])
def index(request: pytest.FixtureRequest, tmp_path: Path) -> PassageIndex:
    if request.param == "lance":
        return LanceIndex(tmp_path / "lance")
    return milvus(tmp_path, "ours_a")


def milvus(folder: Path, collection: str, owner: Owner | None = OURS) -> MilvusIndex:
    return MilvusIndex(str(folder / "milvus.db"), collection, owner=owner)


def ready(index: MilvusIndex, vectors: np.ndarray) -> MilvusIndex:
    index.write(batches(vectors), index_schema(DIMENSIONS))
    index.optimise("exact", len(vectors), DIMENSIONS)
    return index


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    drawn = np.random.default_rng(0).standard_normal((ROWS, DIMENSIONS)).astype(np.float32)
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def batches(vectors: np.ndarray, size: int = 64) -> Iterator[pa.RecordBatch]:
    schema = index_schema(DIMENSIONS)
    for start in range(0, len(vectors), size):
        part = vectors[start : start + size]
        numbers = range(start, start + len(part))
        columns = {
            "row_id": [f"doc{n // 10}#{n % 10 + 1}" for n in numbers],
            "passage_id": [f"d_{n:016x}" for n in numbers],
            "doc_id": [f"doc{n // 10}" for n in numbers],
            "title": [f"Title {n // 10}" for n in numbers],
            "section": ["" for _ in numbers],
            "text": [
                f"passage {n} about {'pumps' if n % 2 else 'kilns'} and 'quotes' — ünïcode" for n in numbers
            ],
            "chunk_id": [n % 10 + 1 for n in numbers],
        }
        arrays = [pa.array(columns[field.name], field.type) for field in list(schema)[:-1]]
        arrays.append(pa.FixedSizeListArray.from_arrays(pa.array(part.reshape(-1)), DIMENSIONS))
        yield pa.record_batch(arrays, schema=schema)


def test_search_equals_brute_force_and_returns_the_row_as_written(
    index: PassageIndex, vectors: np.ndarray
) -> None:
    assert index.write(batches(vectors), index_schema(DIMENSIONS)) == ROWS
    assert index.optimise("exact", ROWS, DIMENSIONS) == "exact"
    query = np.random.default_rng(1).standard_normal(DIMENSIONS).astype(np.float32)
    query /= np.linalg.norm(query)
    hits = index.search(query, 10)
    scores = vectors @ query
    expected = np.argsort(-scores)[:10]
    assert [hit.passage_id for hit in hits] == [f"d_{n:016x}" for n in expected]
    np.testing.assert_allclose([hit.score for hit in hits], scores[expected], atol=1e-5)
    first = int(expected[0])
    assert (hits[0].doc_id, hits[0].chunk_id) == (f"doc{first // 10}", first % 10 + 1)
    assert "'quotes' — ünïcode" in hits[0].text


def test_a_filter_narrows_the_search(index: PassageIndex, vectors: np.ndarray) -> None:
    index.write(batches(vectors), index_schema(DIMENSIONS))
    index.optimise("exact", ROWS, DIMENSIONS)
    hits = index.search(
        vectors[0], 5, where="doc_id = 'doc7'" if isinstance(index, LanceIndex) else "doc_id == 'doc7'"
    )
    expected = 70 + np.argsort(-(vectors[70:80] @ vectors[0]))[:5]
    assert [hit.passage_id for hit in hits] == [f"d_{n:016x}" for n in expected]


def test_a_filter_that_makes_no_sense_is_a_clear_error(index: PassageIndex, vectors: np.ndarray) -> None:
    index.write(batches(vectors), index_schema(DIMENSIONS))
    index.optimise("exact", ROWS, DIMENSIONS)
    with pytest.raises(VectorStoreError, match="no_such_column"):
        index.search(vectors[0], 5, where="no_such_column = 1 AND")


ENDS_EARLY = [
    ("doc_id = 'doc7'; DROP TABLE passages", 16, ";"),
    ("doc_id = 'doc7' junk", 17, "junk"),
    ("doc_id = 'doc7' doc_id", 17, "doc_id"),
    ("doc_id = 'doc7' 5", 17, "5"),
    ("doc_id = 'doc7' ORDER BY doc_id", 17, "ORDER"),
    ("doc_id = 'doc7' LIMIT 0", 17, "LIMIT"),
    ("doc_id = 'doc7' UNION SELECT 1", 17, "UNION"),
    ("doc_id = 'doc7' -- AND title = 'x'", 17, "--"),
    ("doc_id = 'doc7' /* AND title = 'x' */", 17, "/*"),
    ("doc_id = 'doc7') OR (doc_id = 'doc8'", 16, ")"),
    ("doc_id IN ('doc7', 'doc8'] OR (1 = 1)", 26, "]"),
    ("doc_id = 'doc7' AND title = 'x", 29, "'x"),
]


@pytest.fixture
def small(index: PassageIndex, vectors: np.ndarray) -> PassageIndex:
    """An index of ten documents, ready to be searched."""
    index.write(batches(vectors[:100]), index_schema(DIMENSIONS))
    index.optimise("exact", 100, DIMENSIONS)
    return index


@pytest.mark.parametrize(("where", "column", "word"), ENDS_EARLY)
def test_no_part_of_a_filter_is_ignored_and_the_error_names_the_place(
    where: str, column: int, word: str, small: PassageIndex, vectors: np.ndarray
) -> None:
    with pytest.raises(VectorStoreError) as caught:
        small.search(vectors[0], 5, where=where)
    message = str(caught.value)
    assert word in message
    if "refused the search" in message:  # Milvus shows the condition in its own syntax, in brackets
        assert f"at column {column + 2}" in message
        assert f"'{word}" in message or word in "5"
    else:
        assert f"column {column}, at " in message


@pytest.mark.parametrize(("where", "place"), [("doc_id IN ('doc7'", "its end: ) is missing"), (" ", "empty")])
def test_an_unfinished_filter_is_refused(
    where: str, place: str, small: PassageIndex, vectors: np.ndarray
) -> None:
    with pytest.raises(VectorStoreError, match=re.escape(place)):
        small.search(vectors[0], 5, where=where)


@pytest.mark.parametrize(
    "where",
    [
        "doc_id = 'doc7'",
        "(doc_id = 'doc7')",
        "doc_id IN ('doc7', 'a;b', '--', '/*', ')(')",
        "doc_id = 'it''s; -- not' OR doc_id = 'doc7'",
        "doc_id = 'doc7' AND NOT (title = ';') AND chunk_id > - 1",
        "doc_id LIKE 'doc7%'",
    ],
)
def test_signs_in_quoted_texts_end_no_filter(where: str, small: PassageIndex, vectors: np.ndarray) -> None:
    assert {hit.doc_id for hit in small.search(vectors[0], 20, where=where)} == {"doc7"}


def test_a_filter_may_be_in_the_language_of_its_engine(small: PassageIndex, vectors: np.ndarray) -> None:
    lance = "lower(`doc_id`) = 'doc7' AND chunk_id BETWEEN 1 AND 3"
    milvus = r"""doc_id in ["doc7", 'it\'s; --'] && chunk_id <= 3 && doc_id != 'x'"""
    where = lance if isinstance(small, LanceIndex) else milvus
    hits = small.search(vectors[0], 20, where=where)
    assert {(hit.doc_id, hit.chunk_id) for hit in hits} == {("doc7", 1), ("doc7", 2), ("doc7", 3)}


def test_writing_again_replaces_what_an_interrupted_try_left(
    index: PassageIndex, vectors: np.ndarray, tmp_path: Path
) -> None:
    def killed() -> Iterator[pa.RecordBatch]:
        yield from batches(vectors)
        raise RuntimeError("killed")

    schema = index_schema(DIMENSIONS)
    index.write(batches(vectors[:50]), schema)
    with pytest.raises(RuntimeError, match="killed"):
        index.write(killed(), schema)
    assert index.write(batches(vectors), schema) == ROWS
    index.optimise("exact", ROWS, DIMENSIONS)
    assert index.count() == ROWS
    if isinstance(index, LanceIndex):
        fresh = LanceIndex(tmp_path / "fresh")
        fresh.write(batches(vectors), schema)
        assert kinds_of_files(tmp_path / "lance") == kinds_of_files(tmp_path / "fresh")


def kinds_of_files(folder: Path) -> list[tuple[str, str]]:
    """Their names are random."""
    return sorted((each.parent.parent.name, each.suffix) for each in folder.rglob("*") if each.is_file())


@pytest.mark.parametrize("kind", ["ivf", "hnsw"])
def test_an_approximate_index_finds_nearly_all_that_exact_search_finds(
    kind: IndexType, index: PassageIndex, vectors: np.ndarray
) -> None:
    index.write(batches(vectors), index_schema(DIMENSIONS))
    assert kind in index.optimise(kind, ROWS, DIMENSIONS).lower()
    found = 0
    for query in vectors[:20]:
        expected = {f"d_{n:016x}" for n in np.argsort(-(vectors @ query))[:10]}
        found += len(expected & {hit.passage_id for hit in index.search(query, 10)})
    assert found >= 0.9 * 200


def test_parameters_of_the_engine_are_taken_and_wrong_ones_named(
    index: PassageIndex, vectors: np.ndarray
) -> None:
    index.write(batches(vectors), index_schema(DIMENSIONS))
    lance = isinstance(index, LanceIndex)
    right, wrong = ({"num_partitions": 3}, {"petals": 3}) if lance else ({"nlist": 3}, {"nlist": 0})
    if lance:
        with pytest.raises(VectorStoreError, match=r"petals 3.*index_parameters"):
            index.optimise("ivf", ROWS, DIMENSIONS, wrong)
    assert "3" in index.optimise("ivf", ROWS, DIMENSIONS, right)
    assert len(index.search(vectors[0], 10)) == 10


def test_a_version_knows_its_documents_and_whether_it_is_there(
    index: PassageIndex, vectors: np.ndarray
) -> None:
    assert not index.exists()
    index.write(batches(vectors), index_schema(DIMENSIONS))
    index.optimise("exact", ROWS, DIMENSIONS)
    assert index.exists()
    assert index.holds("doc7")
    assert not index.holds("doc'7")
    assert [(hit.doc_id, hit.chunk_id) for hit in index.passages_of("doc7", 0, 3)] == [
        ("doc7", chunk) for chunk in (1, 2, 3)
    ]
    assert index.passages_of("doc'7", 0, 3) == []
    index.drop()
    if isinstance(index, MilvusIndex):
        assert not index.exists()
        assert not index.holds("doc7")
        index.drop()


@pytest.mark.slow
def test_milvus_readers_of_the_alias_move_to_the_new_version_at_once(
    tmp_path: Path, vectors: np.ndarray
) -> None:
    for name, part in (("ours_a", vectors[:100]), ("ours_b", vectors[100:])):
        ready(milvus(tmp_path, name), part).activate()
    assert milvus(tmp_path, OURS.alias, owner=None).count() == 200
    milvus(tmp_path, "ours_a").drop()
    assert milvus(tmp_path, OURS.alias, owner=None).count() == 200
    milvus(tmp_path, "ours_b").drop()
    assert not milvus(tmp_path, OURS.alias, owner=None).exists()


@pytest.mark.slow
def test_milvus_readers_cannot_write(tmp_path: Path, vectors: np.ndarray) -> None:
    ready(milvus(tmp_path, "ours_a"), vectors)
    reader = milvus(tmp_path, "ours_a", owner=None)
    with pytest.raises(VectorStoreError, match="only for reading"):
        reader.write(batches(vectors[:10]), index_schema(DIMENSIONS))
    assert reader.count() == ROWS


@pytest.mark.slow
def test_an_alias_of_another_project_is_left_alone(tmp_path: Path, vectors: np.ndarray) -> None:
    ready(milvus(tmp_path, "theirs_a", THEIRS), vectors[:100]).activate()
    greedy = Owner(OURS.project, OURS.root, THEIRS.alias)
    error = r"alias theirs_current .* names theirs_a, of the project at /theirs/output: set reindex\.milvus_collection"
    with pytest.raises(VectorStoreError, match=error):
        milvus(tmp_path, "ours_a", greedy).write(batches(vectors), index_schema(DIMENSIONS))
    assert not milvus(tmp_path, "ours_a").exists()
    ready(milvus(tmp_path, "ours_b"), vectors)
    with pytest.raises(VectorStoreError, match=error):
        milvus(tmp_path, "ours_b", greedy).activate()
    milvus(tmp_path, "ours_b", greedy).drop()
    assert milvus(tmp_path, THEIRS.alias, owner=None).count() == 100


@pytest.mark.slow
def test_an_alias_that_retune_did_not_make_is_left_alone(tmp_path: Path) -> None:
    from pymilvus import MilvusClient

    client = MilvusClient(str(tmp_path / "milvus.db"))
    client.create_collection("catalogue", dimension=4)
    client.create_alias("catalogue", OURS.alias)
    with pytest.raises(VectorStoreError, match="names catalogue, not made by Retune"):
        milvus(tmp_path, "ours_a").write([], index_schema(DIMENSIONS))
    assert client.list_collections() == ["catalogue"]


@pytest.mark.slow
def test_what_milvus_refuses_is_told(tmp_path: Path, vectors: np.ndarray) -> None:
    batch = next(batches(vectors))
    long = batch.set_column(
        batch.schema.get_field_index("text"), "text", pa.array(["x" * 70_000] * len(batch))
    )
    with pytest.raises(VectorStoreError, match=r"(?s)Milvus refused to write collection ours_a: .*text"):
        milvus(tmp_path, "ours_a").write([long], index_schema(DIMENSIONS))


def test_no_request_to_milvus_is_larger_than_a_server_takes() -> None:
    """Rows of very different sizes, one of them too large for one request by itself."""
    sizes = [10, 10, 9 * 2**20, 9 * 2**20, REQUEST_BYTES + 1, 10, 5 * 2**20, 5 * 2**20, 5 * 2**20]
    texts = ["x" * size for size in sizes]
    batch = pa.record_batch({"text": texts, "number": list(range(len(sizes)))})
    parts = list(request_parts(batch))
    assert [number for part in parts for number in part.column("number").to_pylist()] == list(
        range(len(sizes))
    )
    assert [part.column("text").to_pylist() for part in parts if part.nbytes > REQUEST_BYTES] == [[texts[4]]]
    assert len(parts) < len(sizes)


def test_words_are_found_and_a_filter_narrows_them(small: PassageIndex) -> None:
    assert small.full_text
    hits = small.search_text("kilns", 5)
    assert len(hits) == 5
    assert all("kilns" in hit.text for hit in hits)
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    assert hits[0].score > 0
    (only,) = small.search_text("passage 74", 1, where="doc_id = 'doc7'")
    assert (only.doc_id, only.chunk_id) == ("doc7", 5)
    assert small.search_text("nowhere", 5) == []
    assert small.search_text("?!", 5) == []


GERMAN = (
    "Die Pumpe wird in jeder zweiten Woche von einem Monteur geprüft.",
    "Wir müssen die Dichtungen der Häuser am See noch in diesem Jahr erneuern.",
    "Der Kessel ist mit einer Haube aus Blech versehen, die man nicht anheben kann.",
)


FORMS = {
    "prüfen": [0],
    "Pumpen": [0],
    "geprüften": [0],
    "erneuert": [1],
    "Haus": [1],
    "hebt": [],
    "versehen": [2],
}
OTHER_SCRIPTS = {
    "阀门": (
        "锅炉的阀门每天早上都要检查，然后把压力记在日志里。",
        "窑炉的皮带需要每周更换一次，请戴上手套。",
    ),
    "圧力": ("ボイラーの弁は毎朝点検し、圧力を帳面に記録します。", "窯のベルトは毎週交換してください。"),
    "วาล์ว": ("ตรวจสอบวาล์วของหม้อไอน้ำทุกเช้า", "ล้างตัวกรองด้วยน้ำอุ่น"),
    "path": ("Call os.path_join() for the valves.", "Call the other one for the belts."),
    "valve": ("Call os.path_join() for the valves.", "Call the other one for the belts."),
}


def texts_index(index: PassageIndex, texts: Sequence[str]) -> PassageIndex:
    vectors = np.eye(len(texts), 8, dtype=np.float32)
    index.write([passage_rows([str(n) for n in range(len(texts))], texts, vectors)], index_schema(8))
    index.optimise("exact", len(texts), 8)
    return index


@pytest.mark.parametrize("word", FORMS)
def test_words_of_a_german_index_are_found_in_other_forms(word: str, tmp_path: Path) -> None:
    texts_index(LanceIndex(tmp_path / "lance"), GERMAN)
    found = [hit.doc_id for hit in LanceIndex(tmp_path / "lance").search_text(word, 3)]
    assert found == [str(number) for number in FORMS[word]]


@pytest.mark.parametrize("word", OTHER_SCRIPTS)
def test_lance_finds_words_of_scripts_without_spaces_and_of_code(word: str, tmp_path: Path) -> None:
    index = texts_index(LanceIndex(tmp_path / "lance"), OTHER_SCRIPTS[word])
    assert [hit.doc_id for hit in index.search_text(word, 2)] == ["0"]


@pytest.mark.slow
def test_milvus_finds_words_of_every_language_in_one_index(tmp_path: Path) -> None:
    texts = [*GERMAN, *dict.fromkeys(text for pair in OTHER_SCRIPTS.values() for text in pair)]
    texts_index(milvus(tmp_path, "ours_a"), texts)
    index = milvus(tmp_path, "ours_a", owner=None)
    for word, numbers in FORMS.items():
        assert [hit.doc_id for hit in index.search_text(word, 3)] == [str(number) for number in numbers], word
    for word, (text, _) in OTHER_SCRIPTS.items():
        assert [hit.text for hit in index.search_text(word, 2)] == [text], word


@pytest.mark.slow
def test_a_milvus_collection_of_an_earlier_version_says_what_to_do(
    tmp_path: Path, vectors: np.ndarray
) -> None:
    from pymilvus import MilvusClient

    MilvusClient(str(tmp_path / "milvus.db")).create_collection("ours_a", dimension=DIMENSIONS)
    index = milvus(tmp_path, "ours_a")
    assert not index.full_text
    with pytest.raises(VectorStoreError, match="earlier version of Retune"):
        index.search_text("kilns", 5)
