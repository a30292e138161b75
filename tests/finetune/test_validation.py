"""nDCG on the validation questions against a search in float64."""

from __future__ import annotations

import numpy as np
import pytest

from assets_pkg.finetune.data import ValidationData
from assets_pkg.finetune.validation import choose_share, scores_of


@pytest.mark.slow
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
        assert scores_of(data, question, passages).mean() > 0, row


def test_a_pool_smaller_than_the_cut_off() -> None:
    vectors = np.eye(3, dtype=np.float32)
    data = ValidationData({"q": ""}, {"q": frozenset({"b"})}, {"a": "", "b": "", "c": ""})
    assert scores_of(data, vectors[1:2], vectors).mean() == 1.0


def test_the_smallest_share_within_one_standard_error_is_chosen() -> None:
    """Worked by hand: of 100 questions ten change by 1, so that the paired differences' standard error is 0.03."""
    noise = np.zeros(100)
    noise[:10] = 1.0

    def losing(mean: float) -> np.ndarray:
        return 0.5 + noise - mean - np.where(np.arange(100) % 2, 0.1, -0.1)

    best = 0.5 + noise
    scores = {0.0: losing(0.3), 0.25: losing(0.011), 0.5: losing(0.009), 0.75: losing(0.001), 1.0: best}
    assert choose_share(scores, "best") == 1.0
    assert choose_share(scores, "one_standard_error") == 0.5  # 0.1 / 10 = 0.01
    few = {share: each[:10] for share, each in scores.items()}
    assert choose_share(few, "one_standard_error") == choose_share(few, "best")


def test_the_base_is_chosen_only_where_it_is_best() -> None:
    same = np.linspace(0, 1, 50)
    assert choose_share({0.0: same, 0.5: same, 1.0: same}, "one_standard_error") == 0.0
    assert choose_share({0.0: same + 0.1, 0.5: same, 1.0: same}, "one_standard_error") == 0.0
    noise = np.where(np.arange(50) % 2, 0.1, -0.1)
    nearly = {0.0: same - 0.001 + noise, 0.5: same - 0.001 + noise, 1.0: same}
    assert choose_share(nearly, "one_standard_error") == 0.5
