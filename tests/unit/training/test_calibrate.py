from __future__ import annotations

import numpy as np
import pytest

from datasentinel.errors import DataError
from datasentinel.training.calibrate import calibrate


def quantile(scores, target_fpr):
    return calibrate(np.array(scores, np.float32), method="quantile", target_fpr=target_fpr)


def test_the_threshold_lies_between_the_conformal_quantile_and_the_next_score():
    # k = ceil(100 * 0.99) = 99: the greatest of 99 scores; k = ceil(100 * 0.95) = 95.
    scores = np.random.default_rng(0).permutation(np.arange(1, 100))
    assert quantile(scores, 0.05).threshold == 95.5
    assert quantile(scores, 0.01).threshold == pytest.approx(99, rel=1e-4)
    assert quantile(scores, 0.01).threshold > 99


def test_too_few_rows_take_the_greatest_score():
    assert 3 < quantile([1, 2, 3], 0.001).threshold < 3.001


def test_ties_are_all_normal():
    assert quantile([1.0] * 98 + [5.0, 6.0], 0.05).threshold == 3.0


def test_the_target_is_kept_on_new_rows():
    """Over many draws, on average at most the target share of new scores is above."""
    random = np.random.default_rng(1)
    shares = []
    for _ in range(300):
        threshold = quantile(random.exponential(size=200), 0.05).threshold
        shares.append(np.mean(random.exponential(size=200) > threshold))
    assert 0.04 < np.mean(shares) < 0.053


def test_mean_and_three_deviations():
    scores = np.random.default_rng(0).gamma(2, size=500).astype(np.float32)
    calibration = calibrate(scores, method="mean+3std", target_fpr=0.01)
    wide = scores.astype(np.float64)
    assert calibration.threshold == pytest.approx(wide.mean() + 3 * wide.std(), rel=1e-12)
    assert calibration.target_fpr is None


def test_facts_hold_the_quantiles():
    facts = quantile(np.arange(1001), 0.01).facts()
    quantiles = dict(
        zip(facts["score_quantiles"]["probabilities"], facts["score_quantiles"]["scores"], strict=True)
    )
    assert (facts["rows"], facts["target_fpr"], facts["method"]) == (1001, 0.01, "quantile")
    assert quantiles[0.5] == 500
    assert quantiles[0.999] == 999
    assert quantiles[1.0] == 1000


@pytest.mark.parametrize("scores", [[], [1.0, np.nan], [np.inf]])
def test_scores_must_be_finite(scores):
    with pytest.raises(DataError):
        quantile(scores, 0.01)
