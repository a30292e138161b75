import numpy as np
import pytest
import scipy.stats

from assets_pkg.evaluation import compare as module
from assets_pkg.evaluation.compare import compare
from assets_pkg.evaluation.errors import EvaluationError
from assets_pkg.retrieval.metrics import RetrievalScores

from .conftest import made_up


@pytest.fixture(scope="module")
def pair():
    rng = np.random.default_rng(0)
    base = rng.uniform(0, 1, 120)
    gains = np.where(rng.uniform(size=120) < 0.4, 0, rng.normal(0.03, 0.15, 120))
    return base, np.clip(base + gains, 0, 1)


def test_interval_and_p_value_agree_with_scipy(pair, settings):
    base, tuned = pair
    settings = settings.model_copy(update={"bootstrap_samples": 20_000})
    got = compare(made_up(base), made_up(tuned), settings)["NDCG@10"]
    interval = scipy.stats.bootstrap(
        (tuned - base,), np.mean, n_resamples=20_000, method="percentile", rng=1
    ).confidence_interval
    assert (got.low, got.high) == pytest.approx((interval.low, interval.high), abs=0.002)
    flips = scipy.stats.permutation_test(
        (tuned - base,), np.mean, permutation_type="samples", n_resamples=20_000, rng=1
    )
    assert got.p_value == pytest.approx(flips.pvalue, abs=0.01)
    assert (got.base, got.finetuned) == pytest.approx((base.mean(), tuned.mean()))
    assert got.delta == pytest.approx(tuned.mean() - base.mean())
    assert (got.wins, got.losses, got.ties) == (
        (tuned > base).sum(),
        (tuned < base).sum(),
        (tuned == base).sum(),
    )


def test_a_true_gain_of_the_detectable_size_is_found_four_times_in_five(settings):
    """Power, by trying it: 300 eval sets whose true gain is what one eval set said it could detect."""
    rng = np.random.default_rng(3)
    base = np.zeros(100)
    size = compare(made_up(base), made_up(rng.normal(0, 0.1, 100)), settings)["NDCG@10"].detectable
    assert size == pytest.approx(2.8 * 0.1 / 10, rel=0.2)
    found = 0
    settings = settings.model_copy(update={"bootstrap_samples": 300})
    for _ in range(300):
        found += compare(made_up(base), made_up(rng.normal(0.028, 0.1, 100)), settings)["NDCG@10"].low > 0
    assert found / 300 == pytest.approx(0.8, abs=0.08)


def test_the_same_model_twice_shows_nothing(pair, settings):
    got = compare(made_up(pair[0]), made_up(pair[0]), settings)["NDCG@10"]
    assert (got.delta, got.low, got.high, got.p_value, got.ties) == (0, 0, 0, 1, 120)


def test_the_seed_decides_and_the_block_size_does_not_matter_for_means(pair, settings, monkeypatch):
    base, tuned = map(made_up, pair)
    first = compare(base, tuned, settings)
    assert compare(base, tuned, settings) == first
    assert compare(base, tuned, settings.model_copy(update={"bootstrap_seed": 7})) != first
    monkeypatch.setattr(module, "_CELLS", 1000)
    again = compare(base, tuned, settings)["NDCG@10"]
    assert again.low == pytest.approx(first["NDCG@10"].low, abs=0.01)


def test_metrics_are_resampled_together_and_reported_apart(pair, settings):
    base, tuned = pair
    both = [
        RetrievalScores(made_up(values).query_ids, {"NDCG@10": values, "P@1": values / 2}, {})
        for values in (base, tuned)
    ]
    got = compare(*both, settings)
    assert got["P@1"].low == pytest.approx(got["NDCG@10"].low / 2)
    assert got["P@1"].p_value == got["NDCG@10"].p_value


def test_different_eval_sets_are_not_compared(pair, settings):
    with pytest.raises(EvaluationError, match="different queries"):
        compare(made_up(pair[0]), made_up(pair[1][:-1]), settings)
