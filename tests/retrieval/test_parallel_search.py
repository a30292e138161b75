"""Several processes find what one does: two on this CPU, against all pairs in float64."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest
import torch

from assets_pkg.retrieval.errors import RetrievalError
from assets_pkg.retrieval.exact_search import exact_search, pair_scores
from assets_pkg.retrieval.parallel_search import search_devices, search_file

from .test_exact_search import all_pairs, unit, with_duplicates

pytestmark = pytest.mark.slow

TWO = ["cpu", "cpu"]


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    """Questions, passages of three blocks (a third of them copies, also across the parts), what is hidden."""
    rng = np.random.default_rng(0)
    passages = with_duplicates(rng, 9000, 32)
    queries = unit(rng.normal(size=(300, 32)))
    queries[:100] = passages[rng.choice(9000, size=100)]
    excluded = [sorted(set(rng.choice(9000, size=rng.integers(0, 4)).tolist())) for _ in range(300)]
    ceilings = rng.uniform(-0.2, 0.6, size=300)
    tied = np.stack([np.arange(0, 300, 2), rng.choice(9000, size=150)], axis=1)
    ceilings[::2] = pair_scores(queries, passages, tied)  # a passage has exactly this score: it stays in
    path = tmp_path_factory.mktemp("vectors") / "passages.npy"
    np.save(path, passages)
    return queries, passages, path, ceilings, excluded


@pytest.mark.parametrize("with_ceiling", [False, True])
def test_two_processes_find_what_all_pairs_in_float64_are(material, with_ceiling):
    queries, passages, path, ceilings, excluded = material
    tops = ceilings if with_ceiling else np.full(len(queries), np.inf)
    reported = []
    got = search_file(
        queries,
        path,
        10,
        devices=TWO,
        ceilings=tops,
        excluded=excluded,
        progress=lambda *args, **_: reported.append(args),
    )
    want, _ = all_pairs(queries, passages, 10, tops, excluded)
    np.testing.assert_array_equal(got.ids, want)
    alone = exact_search(queries, passages, 10, ceilings=tops, excluded=excluded)
    np.testing.assert_array_equal(got.scores, alone.scores)  # to the last bit
    np.testing.assert_array_equal(got.above, alone.above)
    assert [done for done, _, _ in reported] == sorted(done for done, _, _ in reported)
    assert reported[-1] == (300, 300, "queries")
    assert [each.name for each in path.parent.iterdir()] == ["passages.npy"]


def test_a_failed_process_is_an_error_and_leaves_nothing(material):
    queries, _, path, *_ = material
    with pytest.raises(RetrievalError, match=r"a process of the search failed: .*no-such-device"):
        search_file(queries, path, 3, devices=["cpu", "no-such-device"])
    assert multiprocessing.active_children() == []
    assert [each.name for each in path.parent.iterdir()] == ["passages.npy"]


SEARCH = """
import sys, numpy as np
from pathlib import Path
from assets_pkg.retrieval.parallel_search import search_file
if __name__ == "__main__":
    path = Path(sys.argv[1])
    queries = np.load(path)[:4000]
    search_file(queries, path, 5, devices=["cpu", "cpu"], progress=lambda *a, **_: print(a, flush=True))
"""


def started(folder):
    """A process that searches in two others, which have begun."""
    passages = unit(np.random.default_rng(0).normal(size=(300_000, 64)))
    np.save(folder / "passages.npy", passages)
    (folder / "search.py").write_text(SEARCH)
    command = [sys.executable, str(folder / "search.py"), str(folder / "passages.npy")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline()
    return process, [
        each for each in psutil.Process(process.pid).children() if "spawn_main" in str(each.cmdline())
    ]


def ended(processes, seconds=30):
    deadline = time.monotonic() + seconds
    while any(each.is_running() and each.status() != psutil.STATUS_ZOMBIE for each in processes):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return True


def test_processes_end_with_the_one_that_is_killed(tmp_path):
    process, workers = started(tmp_path)
    assert len(workers) == 2
    process.kill()
    process.communicate()
    assert ended(workers)


def test_a_killed_process_ends_the_search_with_a_reason(tmp_path):
    process, workers = started(tmp_path)
    os.kill(workers[0].pid, signal.SIGKILL)
    _, errors = process.communicate(timeout=60)
    assert "a process of the search ended with code -9" in errors
    assert ended(workers)


def test_which_devices_search(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert search_devices("cuda", None) == ["cuda:0", "cuda:1", "cuda:2"]
    assert search_devices("cuda", 2) == ["cuda:0", "cuda:1"]
    assert search_devices("cuda:1", 4) == ["cuda:1"]
    assert search_devices("cpu", None) == ["cpu"]
    assert search_devices("cpu", 2) == ["cpu", "cpu"]
