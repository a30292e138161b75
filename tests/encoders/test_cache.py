import os
import random
import re
import signal
import subprocess
import sys
import textwrap
import zlib
from pathlib import Path

import lmdb
import numpy as np
import pytest

from resources.encoders import cached
from resources.encoders.cached import CachedEncoder
from storage.embedding_cache import FILE_NAME, PAGE_BYTES, EmbeddingCache, EmbeddingCacheError
from storage.files import set_aside
from tests.small_disk import read_only


def vectors_of(names, d=8):
    return np.stack(
        [np.random.default_rng(abs(hash(name)) % 2**32).random(d, dtype=np.float32) for name in names]
    )


class CountingEncoder:
    """A fake that embeds a text as numbers drawn from it, and remembers what it was asked."""

    dimensions = 8

    def __init__(self, fail_on=""):
        self.asked = []
        self.fail_on = fail_on

    def identity(self, role):
        return f"model-{role}"

    def embed(self, texts, role, progress=None):
        if self.fail_on in texts:
            raise KeyboardInterrupt
        self.asked += texts
        if progress:
            progress(len(texts), len(texts), "texts")
        return vectors_of([f"{role}{text}" for text in texts])


def test_what_was_put_comes_back_and_only_under_its_identity(tmp_path):
    cache = EmbeddingCache(tmp_path / "cache")
    vectors = vectors_of("abc")
    cache.put("one", ["a", "b", "c"], vectors)
    found = EmbeddingCache(tmp_path / "cache").get("one", ["c", "x", "a"])
    assert set(found) == {"a", "c"}
    np.testing.assert_array_equal(found["c"], vectors[2])
    assert found["c"].dtype == np.float32
    assert cache.get("other", ["a"]) == {}
    assert (cache.count("one", ["c", "x", "a"]), cache.count("other", ["a"])) == (2, 0)


WRITER = """
    import sys, numpy as np
    from pathlib import Path
    from storage.embedding_cache import EmbeddingCache
    cache = EmbeddingCache(Path(sys.argv[1]))
    print("ready", flush=True)
    block = 0
    while block < int(sys.argv[3]):
        names = [f"{sys.argv[2]}-{block}-{row}" for row in range(50)]
        cache.put("m", names, np.full((50, 64), block, dtype=np.float32))
        print(block, flush=True)
        block += 1
"""


def start_writer(folder: Path, name: str, blocks: int) -> subprocess.Popen:
    command = [sys.executable, "-c", textwrap.dedent(WRITER), str(folder), name, str(blocks)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_several_processes_share_a_cache(tmp_path):
    writers = [start_writer(tmp_path, name, 20) for name in "ab"]
    assert [writer.wait(60) for writer in writers] == [0, 0]
    names = [f"{name}-{block}-{row}" for name in "ab" for block in range(20) for row in range(50)]
    assert len(EmbeddingCache(tmp_path).get("m", names)) == len(names)


def test_a_log_that_another_process_makes_and_removes_is_no_hindrance(tmp_path, monkeypatch, caplog):
    filled(tmp_path / "cache", 3)
    log_file = tmp_path / "cache" / f"{FILE_NAME}-wal"
    access = os.access

    def remove_just_before(path, mode):
        """The most inconvenient moment: the file was there, and is no longer when its permissions are asked for."""
        log_file.unlink(missing_ok=True)
        return access(path, mode)

    log_file.touch()
    monkeypatch.setattr(os, "access", remove_just_before)
    assert len(EmbeddingCache(tmp_path / "cache").get("m", ["text0"])) == 1
    assert "cannot be written" not in caplog.text


def test_a_killed_writer_leaves_every_committed_block(tmp_path):
    writer = start_writer(tmp_path, "k", 10_000)
    assert writer.stdout is not None
    lines = [writer.stdout.readline() for _ in range(6)]
    os.kill(writer.pid, signal.SIGKILL)
    writer.wait()
    committed = int(lines[-1])
    cache = EmbeddingCache(tmp_path)
    names = [f"k-{block}-{row}" for block in range(committed + 1) for row in range(50)]
    assert len(cache.get("m", names)) == len(names)
    cache.put("m", ["after"], np.ones((1, 64), dtype=np.float32))
    assert len(cache.get("m", ["after"])) == 1


def filled(folder, count=300, d=64):
    """A cache of ``count`` vectors, with their names."""
    names = [f"text{number}" for number in range(count)]
    vectors = vectors_of(names, d)
    EmbeddingCache(folder).put("m", names, vectors)
    return names, vectors


def assert_usable(folder, names, vectors, caplog):
    """Every vector that comes back is right; when all are put again, all come back."""
    cache = EmbeddingCache(folder)
    found = cache.get("m", names)
    for name, vector in zip(names, vectors, strict=True):
        if name in found:
            np.testing.assert_array_equal(found[name], vector)
    assert len(found) == len(names) or "made again" in caplog.text
    cache.put("m", names, vectors)
    found = cache.get("m", names)
    np.testing.assert_array_equal(np.stack([found[name] for name in names]), vectors)


@pytest.mark.parametrize("kept", [0, 1, 100, 4096, 16384, 20_000, 0.5, -16384])
def test_a_file_that_was_cut_short_is_set_aside_and_made_again(kept, tmp_path, caplog):
    names, vectors = filled(tmp_path)
    path = tmp_path / FILE_NAME
    size = path.stat().st_size
    length = int(kept * size) if isinstance(kept, float) else kept % size
    os.truncate(path, length)
    if length >= 512:  # SQLite takes what is less than a page for a new file
        assert EmbeddingCache(tmp_path).get("m", names) == {}
        assert "is damaged" in caplog.text
        assert f"renamed to {FILE_NAME}.damaged" in caplog.text
        assert (tmp_path / f"{FILE_NAME}.damaged").stat().st_size == length
    EmbeddingCache(tmp_path).put("m", names, vectors)
    assert_usable(tmp_path, names, vectors, caplog)


def test_another_file_is_set_aside_and_only_once(tmp_path, caplog):
    (tmp_path / FILE_NAME).write_bytes(b"not a database" * 1000)
    cache = EmbeddingCache(tmp_path)
    assert cache.get("m", ["a"]) == {}
    cache.put("m", ["a"], vectors_of("a"))
    assert set(cache.get("m", ["a"])) == {"a"}
    assert caplog.text.count("is damaged") == 1
    assert (tmp_path / f"{FILE_NAME}.damaged").read_bytes() == b"not a database" * 1000


def test_a_file_that_another_process_has_replaced_stays(tmp_path):
    path = tmp_path / "file"
    path.write_text("new")
    set_aside(path, [], path.stat().st_ino + 1)
    assert path.read_text() == "new"


def test_a_cache_that_cannot_be_opened_says_what_to_do(tmp_path):
    (tmp_path / FILE_NAME).mkdir()
    with pytest.raises(EmbeddingCacheError, match=r"delete that folder"):
        EmbeddingCache(tmp_path).get("m", ["a"])


def test_where_nothing_can_be_written_nothing_is_found_or_kept(tmp_path, caplog):
    names, vectors = filled(tmp_path / "cache", 3)
    with read_only(tmp_path):
        for folder in (tmp_path / "cache", tmp_path / "new" / "cache"):
            cache = EmbeddingCache(folder)
            cache.put("m", names, vectors)
            assert cache.get("m", names) == {}
    assert f"{tmp_path} cannot be written" in caplog.text
    assert set(EmbeddingCache(tmp_path / "cache").get("m", names)) == set(names)


@pytest.mark.parametrize("bit", [0, 22, 23, 30, 31])
def test_a_vector_with_a_flipped_bit_does_not_come_back(bit, tmp_path, caplog):
    names, vectors = filled(tmp_path, 3)
    path = tmp_path / FILE_NAME
    content = bytearray(path.read_bytes())
    needle = vectors[1].tobytes()
    position = content.index(needle) + 4 * 7 + bit // 8
    assert content.count(needle) == 1
    content[position] ^= 1 << bit % 8
    path.write_bytes(content)
    found = EmbeddingCache(tmp_path).get("m", names)
    assert set(found) == {names[0], names[2]}
    assert "1 damaged vectors are made again" in caplog.text
    assert_usable(tmp_path, names, vectors, caplog)


def test_vectors_that_are_not_finite_are_not_kept(tmp_path, caplog):
    vectors = vectors_of("abc")
    vectors[0, 3], vectors[2, 0] = np.nan, -np.inf
    cache = EmbeddingCache(tmp_path)
    cache.put("m", ["a", "b", "c"], vectors)
    assert set(cache.get("m", ["a", "b", "c"])) == {"b"}
    assert "2 of 3 vectors are not finite" in caplog.text


def former_cache(folder, entries):
    """The file of an earlier version: LMDB, with a checksum behind the vectors whose key ends in ``:2``."""
    with lmdb.open(str(folder)) as environment, environment.begin(write=True) as transaction:
        for key, value in entries.items():
            transaction.put(key.encode(), value)


def checked(key, vector):
    data = vector.astype("<f4").tobytes()
    return data + zlib.crc32(key.encode() + data).to_bytes(4, "little")


def test_what_an_earlier_version_kept_is_taken_over_where_it_is_right(tmp_path, caplog):
    good, bad = vectors_of("ab")
    bad[5] = np.nan
    plain = {"m:good": good, "m:bad": bad, "m:zero": 0 * good}
    former_cache(
        tmp_path,
        {name: vector.tobytes() for name, vector in plain.items()}
        | {"m:cut": good.tobytes()[:-1], "a:b:zero:2": checked("a:b:zero:2", 0 * good)}
        | {"a:b:good:2": checked("a:b:good:2", good), "a:b:flipped:2": checked("a:b:good:2", good)},
    )
    cache = EmbeddingCache(tmp_path)
    found = cache.get("m", ["good", "bad", "zero", "cut", "absent"])
    assert set(found) == {"good"}
    np.testing.assert_array_equal(found["good"], good)
    found = cache.get("a:b", ["good", "zero", "flipped"])
    assert set(found) == {"good", "zero"}
    np.testing.assert_array_equal(found["good"], good)
    cache.put("m", ["bad"], good[None])
    np.testing.assert_array_equal(cache.get("m", ["bad"])["bad"], good)
    assert not list(tmp_path.glob("*.mdb"))
    assert not caplog.records


@pytest.mark.parametrize("damage", ["a value longer than the file", "cut short", "another file"])
def test_damage_to_what_an_earlier_version_kept_ends_only_its_reader(damage, tmp_path, caplog):
    names = [f"text{number}" for number in range(300)]
    former_cache(tmp_path, {f"m:{name}": vectors_of(["a"])[0].tobytes() for name in names})
    path = tmp_path / "data.mdb"
    content = bytearray(path.read_bytes())
    if damage == "cut short":
        content = content[: len(content) // 2]
    elif damage == "another file":
        content = bytearray(b"not a database" * 1000)
    else:  # a node's header is before its key: size of the value (low and high half), flags, size of the key
        for place in (match.start() for match in re.finditer(rb"m:text299", bytes(content))):
            content[place - 8 : place - 4] = b"\xff\xff\xff\x7f"
    path.write_bytes(content)
    cache = EmbeddingCache(tmp_path)
    assert len(cache.get("m", names)) < len(names)
    assert "data.mdb is damaged" in caplog.text
    assert (tmp_path / "data.mdb.damaged").read_bytes() == content
    cache.put("m", names, vectors_of(names))
    assert len(cache.get("m", names)) == len(names)
    assert caplog.text.count("is damaged") == 1


@pytest.mark.parametrize("seed", range(40))
def test_random_damage_to_the_file_costs_vectors_and_nothing_else(seed, tmp_path, caplog):
    names, vectors = filled(tmp_path, 60, 1000)
    rng = random.Random(seed)
    content = bytearray((tmp_path / FILE_NAME).read_bytes())
    for _ in range(rng.choice([1, 10, 200])):
        page, place = rng.randrange(len(content) // PAGE_BYTES), rng.choice([64, PAGE_BYTES])
        content[page * PAGE_BYTES + rng.randrange(place)] = rng.randrange(256)
    (tmp_path / FILE_NAME).write_bytes(content)
    cache = EmbeddingCache(tmp_path)
    for name, vector in cache.get("m", names).items():
        np.testing.assert_array_equal(vector, vectors[names.index(name)])
    for _ in range(2):  # the second time there is nothing damaged left
        cache.put("m", names, vectors)
    found = cache.get("m", names)
    np.testing.assert_array_equal(np.stack([found[name] for name in names]), vectors)


def test_what_is_removed_is_not_in_the_file_any_more(tmp_path):
    names, vectors = filled(tmp_path, 20)
    cache = EmbeddingCache(tmp_path)
    cache.put("other", names[:1], vectors[:1])
    assert cache.remove([names[0], "absent"]) == 2
    content = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert vectors[0].tobytes() not in content
    assert vectors[1].tobytes() in content
    assert set(cache.get("m", names)) == set(names[1:])


@pytest.mark.parametrize("seed", range(20))
def test_random_damage_to_the_vectors_is_found(seed, tmp_path, caplog):
    names, vectors = filled(tmp_path, 100, 1500)  # vectors in pages of their own
    rng = random.Random(seed)
    content = bytearray((tmp_path / FILE_NAME).read_bytes())
    for row in rng.sample(range(100), 5):
        start = content.index(vectors[row].tobytes())
        for _ in range(rng.choice([1, 3, 500])):
            content[start + rng.randrange(6000)] = rng.randrange(256)
    (tmp_path / FILE_NAME).write_bytes(content)
    assert_usable(tmp_path, names, vectors, caplog)


def test_only_new_texts_are_embedded_and_each_once(tmp_path):
    encoder = CountingEncoder()
    remembering = CachedEncoder(encoder, EmbeddingCache(tmp_path))
    np.testing.assert_array_equal(
        remembering.embed(["a", "b", "a"], "query"), vectors_of(["querya", "queryb", "querya"])
    )
    assert encoder.asked == ["a", "b"]
    seen = []
    got = remembering.embed(
        ["c", "a", "b"], "query", lambda *progress, **figures: seen.append((progress, figures))
    )
    assert encoder.asked[2:] == ["c"]
    np.testing.assert_array_equal(got, vectors_of(["queryc", "querya", "queryb"]))
    assert (remembering.hits, remembering.misses) == (2, 3)
    assert seen == [((2, 3, "texts"), {"cached": 2}), ((3, 3, "texts"), {"cached": 2})]
    remembering.embed(["a"], "passage")
    assert encoder.asked[3:] == ["a"]


def test_the_model_is_not_asked_when_nothing_is_new(tmp_path):
    CachedEncoder(CountingEncoder(), EmbeddingCache(tmp_path)).embed(["a", "b"], "query")

    class Unloadable(CountingEncoder):
        @property
        def dimensions(self):
            raise AssertionError("the model was loaded")

    got = CachedEncoder(Unloadable(fail_on="a"), EmbeddingCache(tmp_path)).embed(["b", "a", "b"], "query")
    np.testing.assert_array_equal(got, vectors_of(["queryb", "querya", "queryb"]))


def test_an_interrupted_call_keeps_its_finished_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(cached, "BLOCK", 10)
    texts = [str(number) for number in range(35)]
    with pytest.raises(KeyboardInterrupt):
        CachedEncoder(CountingEncoder(fail_on="25"), EmbeddingCache(tmp_path)).embed(texts, "query")
    again = CountingEncoder()
    got = CachedEncoder(again, EmbeddingCache(tmp_path)).embed(texts, "query")
    assert again.asked == texts[20:]
    np.testing.assert_array_equal(got, vectors_of([f"query{text}" for text in texts]))


def test_no_texts_give_no_vectors(tmp_path):
    assert CachedEncoder(CountingEncoder(), EmbeddingCache(tmp_path)).embed([], "query").shape == (0, 8)
