"""nDCG on the validation questions against a search in float64."""

from __future__ import annotations

import numpy as np

from assets_pkg.finetune.data import ValidationData
from assets_pkg.finetune.validation import ndcg_of


def test_the_tenth_passage_in_float64_is_found_among_nearly_equal_ones() -> None:
    """Many scores of these passages are equal in float32; the last of the ten best is the only relevant one."""
    rng = np.random.default_rng(0)
    query = rng.normal(size=32)
    vectors = query + 0.001 * rng.normal(size=(1000, 32))
    passages = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    for row in range(40):
        question = query + 0.01 * np.random.default_rng(row).normal(size=32)
        question = (question / np.linalg.norm(question)).astype(np.float32)[None, :]
        scores = np.einsum("ij,j->i", passages.astype(np.float64), question[0].astype(np.float64))
        tenth = int(np.lexsort((np.arange(1000), -scores))[9])
        pool = {f"p{number:04}": "" for number in range(1000)}
        data = ValidationData({"q": ""}, {"q": frozenset({f"p{tenth:04}"})}, pool)
        assert ndcg_of(data, question, passages) > 0, row


def test_a_pool_smaller_than_the_cut_off() -> None:
    vectors = np.eye(3, dtype=np.float32)
    data = ValidationData({"q": ""}, {"q": frozenset({"b"})}, {"a": "", "b": "", "c": ""})
    assert ndcg_of(data, vectors[1:2], vectors) == 1.0
