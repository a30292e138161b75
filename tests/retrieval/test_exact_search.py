import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from assets_pkg.retrieval import exact_search as search_module
from assets_pkg.retrieval.exact_search import BlockwiseSearch, exact_search, pair_scores


def unit(vectors):
    vectors = np.asarray(vectors, dtype=np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def all_pairs(queries, passages, k, ceilings, excluded):
    """The definition: every pair in float64, equal passages scored once, ties to the lower index."""
    distinct, which = np.unique(passages, axis=0, return_inverse=True)
    scores = (queries.astype(np.float64) @ distinct.astype(np.float64).T)[:, which.reshape(-1)]
    ids = np.full((len(queries), k), -1)
    for row, columns in enumerate(excluded):
        # Sums in another order differ in the last bits: a ceiling that is some pair's own score lets it in.
        allowed = scores[row] <= ceilings[row] + 1e-12
        allowed[list(columns)] = False
        columns = np.flatnonzero(allowed)
        best = columns[np.lexsort((columns, -scores[row, columns]))][:k]
        ids[row, : len(best)] = best
    return ids, scores


def with_duplicates(rng, count, d):
    """Random unit vectors, a third of them copies of others, one of them copied very often."""
    vectors = unit(rng.normal(size=(count, d)))
    copies = rng.choice(count, size=count // 3, replace=False)
    vectors[copies] = vectors[rng.choice(count, size=len(copies))]
    vectors[rng.choice(count, size=min(60, count // 4), replace=False)] = vectors[0]
    return vectors


@pytest.mark.slow
@pytest.mark.parametrize("with_ceiling", [False, True])
def test_equals_all_pairs_in_float64_ties_included(with_ceiling, monkeypatch):
    monkeypatch.setattr(search_module, "PASSAGE_BLOCK", 1500)
    rng = np.random.default_rng(0)
    passages = with_duplicates(rng, 5000, 32)
    queries = unit(rng.normal(size=(1000, 32)))
    queries[:200] = passages[rng.choice(5000, size=200)]  # these meet ties at the very top
    excluded = [set(rng.choice(5000, size=rng.integers(0, 4))) for _ in range(1000)]
    ceilings = np.full(1000, np.inf)
    if with_ceiling:
        ceilings = rng.uniform(-0.2, 0.6, size=1000)
        # Half of them at a score that a passage has exactly: it must stay in.
        tied = np.stack([np.arange(0, 1000, 2), rng.choice(5000, size=500)], axis=1)
        ceilings[::2] = pair_scores(queries, passages, tied)
    want, scores = all_pairs(queries, passages, 10, ceilings, excluded)
    got = exact_search(
        queries, passages, 10, ceilings=ceilings, excluded=[list(e) for e in excluded], query_block=300
    )
    np.testing.assert_array_equal(got.ids, want)
    want_scores = np.where(want < 0, np.nan, np.take_along_axis(scores, want, 1))
    np.testing.assert_allclose(got.scores, want_scores, atol=1e-14)


def test_more_ties_at_the_edge_than_spare_candidates():
    rng = np.random.default_rng(1)
    passages = np.repeat(unit(rng.normal(size=(4, 16))), 300, axis=0)
    queries = unit(rng.normal(size=(5, 16)))
    want, _ = all_pairs(queries, passages, 7, np.full(5, np.inf), [()] * 5)
    np.testing.assert_array_equal(exact_search(queries, passages, 7).ids, want)


def test_fewer_passages_than_asked_are_marked_and_excluded_ones_never_come():
    passages = unit(np.eye(3))
    got = exact_search(passages[:1], passages, 5, excluded=[[0]])
    np.testing.assert_array_equal(got.ids, [[1, 2, -1, -1, -1]])
    np.testing.assert_array_equal(np.isnan(got.scores), [[False, False, True, True, True]])
    nothing = exact_search(passages[:1], passages, 2, ceilings=np.array([-0.5]))
    np.testing.assert_array_equal(nothing.ids, [[-1, -1]])
    np.testing.assert_array_equal(nothing.above, [3])


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 400), st.integers(1, 12), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_any_shape(passages_count, queries_count, k, seed):
    rng = np.random.default_rng(seed)
    passages = with_duplicates(rng, passages_count, 8)
    queries = unit(rng.normal(size=(queries_count, 8)))
    excluded = [set(rng.choice(passages_count, size=min(2, passages_count))) for _ in range(queries_count)]
    ceilings = rng.choice([np.inf, 0.3, -0.2], size=queries_count)
    want, _ = all_pairs(queries, passages, k, ceilings, excluded)
    got = exact_search(queries, passages, k, ceilings=ceilings, excluded=[list(e) for e in excluded])
    np.testing.assert_array_equal(got.ids, want)


def test_is_exact_whatever_precision_training_has_set():
    rng = np.random.default_rng(3)
    passages, queries = unit(rng.normal(size=(3000, 64))), unit(rng.normal(size=(50, 64)))
    want, _ = all_pairs(queries, passages, 10, np.full(50, np.inf), [()] * 50)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")  # bfloat16 products, where the CPU has them
    try:
        np.testing.assert_array_equal(exact_search(queries, passages, 10).ids, want)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


def test_progress_is_the_fraction_of_passages_searched(monkeypatch):
    monkeypatch.setattr(search_module, "PASSAGE_BLOCK", 64)
    passages = unit(np.random.default_rng(4).normal(size=(256, 8)))
    reported = []
    exact_search(
        passages[:40], passages, 3, query_block=20, progress=lambda *args, **_: reported.append(args[0])
    )
    assert reported == [5, 10, 15, 20, 25, 30, 35, 40]


def test_reads_a_memory_map_and_reports_progress(tmp_path):
    rng = np.random.default_rng(2)
    passages, queries = unit(rng.normal(size=(200, 8))), unit(rng.normal(size=(10, 8)))
    stored = np.memmap(tmp_path / "vectors", dtype=np.float32, mode="w+", shape=passages.shape)
    stored[:] = passages
    reported = []
    got = exact_search(queries, stored, 3, query_block=4, progress=lambda *args, **_: reported.append(args))
    np.testing.assert_array_equal(got.ids, exact_search(queries, passages, 3).ids)
    assert reported == [(4, 10, "queries"), (8, 10, "queries"), (10, 10, "queries")]


@pytest.mark.parametrize("size", [1, 9, 64, 200])
def test_a_blockwise_search_is_a_search_over_all_blocks(size):
    rng = np.random.default_rng(5)
    passages, queries = with_duplicates(rng, 200, 8), unit(rng.normal(size=(30, 8)))
    want, scores = all_pairs(queries, passages, 12, np.full(30, np.inf), [()] * 30)
    search = BlockwiseSearch(queries, 12)
    for start in range(0, 200, size):
        search.add(passages[start : start + size])
    np.testing.assert_array_equal(search.found.ids, want)
    np.testing.assert_allclose(search.found.scores, np.take_along_axis(scores, want, 1), atol=1e-14)


def test_a_blockwise_search_over_few_passages_has_fewer_columns():
    search = BlockwiseSearch(unit(np.eye(3)), 5)
    search.add(unit(np.eye(3))[:0])
    search.add(unit(np.eye(3))[1:])
    np.testing.assert_array_equal(search.found.ids, [[0, 1], [0, 1], [1, 0]])
