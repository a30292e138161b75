import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from resources.encoders import cached
from resources.encoders.cached import CachedEncoder
from storage.embedding_cache import EmbeddingCache, EmbeddingCacheError


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


def test_the_map_grows_when_full(tmp_path, monkeypatch):
    monkeypatch.setattr("storage.embedding_cache.FIRST_MAP_SIZE", 2**16)
    cache = EmbeddingCache(tmp_path)
    names = [f"text{number}" for number in range(2000)]
    vectors = vectors_of(names, d=64)
    cache.put("m", names, vectors)
    found = cache.get("m", names)
    np.testing.assert_array_equal(np.stack([found[name] for name in names]), vectors)
    assert (tmp_path / "data.mdb").stat().st_size > 2**16


WRITER = """
    import sys, numpy as np, storage.embedding_cache as module
    from pathlib import Path
    module.FIRST_MAP_SIZE = 2**16
    cache = module.EmbeddingCache(Path(sys.argv[1]))
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


def test_several_processes_share_a_cache_that_grows(tmp_path):
    writers = [start_writer(tmp_path, name, 20) for name in "ab"]
    assert [writer.wait(60) for writer in writers] == [0, 0]
    names = [f"{name}-{block}-{row}" for name in "ab" for block in range(20) for row in range(50)]
    assert len(EmbeddingCache(tmp_path).get("m", names)) == len(names)


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


def test_a_damaged_file_says_what_to_do(tmp_path):
    (tmp_path / "data.mdb").write_bytes(b"not a database" * 1000)
    with pytest.raises(EmbeddingCacheError, match=r"delete that folder"):
        EmbeddingCache(tmp_path).get("m", ["a"])


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
