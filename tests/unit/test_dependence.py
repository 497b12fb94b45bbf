from __future__ import annotations

import numpy as np
import pytest

from datasentinel.calibration import calibrate
from datasentinel.dependence import BLOCKS, DriftingScores, independent_rows
from datasentinel.errors import SettingsError
from datasentinel.events import AlarmBudget


def autoregressive(rows, correlation, random):
    """Return exp of a stationary process with this correlation of neighbours, standard deviation 1."""
    steps = random.normal(size=rows) * np.sqrt(1 - correlation**2)
    steps[0] = random.normal()
    for i in range(1, rows):
        steps[i] += correlation * steps[i - 1]
    return np.exp(steps).astype(np.float32)


def test_clustered_scores_count_as_fewer():
    random = np.random.default_rng(0)
    independent = random.normal(size=10_000).astype(np.float32)
    clustered = np.repeat(independent[:500], 20)
    assert independent_rows(independent, 0.05) > 7_000
    assert 250 < independent_rows(clustered, 0.05) < 1_000
    assert independent_rows(np.ones(100, np.float32), 0.05) == 1


@pytest.mark.parametrize("repeats", [1, 10])
def test_scores_of_few_values_count_too(repeats):
    """The greatest is that of many rows, so that none is above the quantile."""
    scores = np.repeat(np.random.default_rng(0).integers(0, 4, 1000).astype(np.float32), repeats)
    assert independent_rows(scores, 0.02) == pytest.approx(1000, rel=0.25)


def test_a_target_needs_more_rows_where_they_depend_on_each_other():
    scores = np.repeat(np.random.default_rng(0).random(15).astype(np.float32), 10)
    calibration = calibrate(scores, method="conformal", target_fpr=0.01, recording=True, has_memory=True)
    assert calibration.fpr_bound > 0.01
    independent = 1 / calibration.fpr_bound - 1
    assert independent < 99 < len(scores)
    assert calibration.rows_needed == pytest.approx(99 * len(scores) / independent, abs=1)


@pytest.mark.parametrize("correlation", [0.0, 0.9, 0.99])
def test_dependent_scores_keep_the_promise_on_what_follows_them(correlation):
    """Of 40 recordings each; the last correlation lasts for half a block of the calibration rows."""
    random = np.random.default_rng(int(100 * correlation))
    shares = []
    for _ in range(40):
        scores = autoregressive(6_000, correlation, random)
        calibration = calibrate(
            scores[:1500], method="conformal", target_fpr=0.01, recording=True, has_memory=True
        )
        shares.append(np.mean(scores[1500:] > calibration.threshold))
    error = np.std(shares) / np.sqrt(len(shares))
    assert np.mean(shares) <= 0.01 + 2 * error
    assert np.median(shares) <= 0.012
    if not correlation:
        assert np.mean(shares) > 0.007  # Nor is the threshold higher than it needs to be.


def test_the_promise_of_a_recording_is_what_its_independent_rows_allow():
    """By a model without memory: mean squares of eight columns, 40 recordings."""
    random = np.random.default_rng(4)
    shares, promised = [], []
    for _ in range(40):
        columns = [np.log(autoregressive(6_000, 0.97, random)) for _ in range(8)]
        scores = np.square(columns).mean(axis=0).astype(np.float32)
        calibration = calibrate(scores[:750], method="conformal", target_fpr=0.01, recording=True)
        shares.append(np.mean(scores[750:] > calibration.threshold))
        promised.append(calibration.fpr_bound)
        plain = calibrate(scores[:750], method="conformal", target_fpr=0.01)
        assert calibration.threshold == plain.threshold
        assert calibration.fpr_bound > plain.fpr_bound
        assert not calibration.rows_needed
    assert np.mean(shares) <= np.mean(promised) + 2 * np.std(shares) / np.sqrt(len(shares))


def test_a_recording_that_wanders_gets_a_higher_threshold_than_its_rows_shuffled():
    random = np.random.default_rng(5)
    wandering = np.exp(np.repeat(random.normal(size=BLOCKS), 200) + 0.1 * random.normal(size=BLOCKS * 200))
    scores = wandering.astype(np.float32)
    shuffled = random.permutation(scores)
    assert DriftingScores(scores).threshold(0.01) > 2 * DriftingScores(shuffled).threshold(0.01)
    assert DriftingScores(shuffled).threshold(0.01) == pytest.approx(np.quantile(scores, 0.99), rel=0.3)


@pytest.mark.parametrize("share", [0.001, 0.01, 0.2])
def test_the_share_above_the_threshold_is_the_one_asked_for(share):
    drifting = DriftingScores(autoregressive(2_000, 0.9, np.random.default_rng(1)))
    assert drifting.share_above(drifting.threshold(share)) == pytest.approx(share, rel=1e-6)


def test_scores_without_any_drift_have_their_own_quantile():
    scores = np.tile(np.arange(1, 101, dtype=np.float32), BLOCKS)
    drifting = DriftingScores(scores)
    assert drifting.share_above(99.5) == pytest.approx(0.01)
    assert drifting.threshold(0.01) == pytest.approx(99)


@pytest.mark.parametrize("shape", ["drift", "jump", "flicker", "normal"])
def test_no_more_rows_than_the_budget_allows_are_above_whatever_the_scores(shape):
    random = np.random.default_rng(3)
    rows = 20_000
    severities = {
        "drift": np.exp(np.linspace(-2, 6, rows) + random.normal(size=rows)),
        "jump": np.where(np.arange(rows) < 3_000, 0.5, 400.0) * np.exp(0.1 * random.normal(size=rows)),
        "flicker": np.where(np.arange(rows) % 7 == 0, 50.0, 0.1),
        "normal": np.exp(random.normal(size=rows) - 2.4),
    }[shape].astype(np.float32)
    budget = AlarmBudget(2.0, 0.01, gain=0.02)
    anomalies = np.concatenate([budget.decide(part) for part in np.array_split(2 * severities, 7)])
    assert anomalies.sum() <= 0.01 * rows + 1 + np.log(severities.max()) / 0.02
    assert anomalies[np.argmax(severities > 1)]
    if shape == "normal":
        np.testing.assert_allclose(anomalies.mean(), np.mean(severities > 1), rtol=0.3)


def test_a_budget_comes_back_to_the_calibrated_threshold():
    budget = AlarmBudget(1.0, 0.01)
    budget.decide(np.full(50, 9.0, np.float32))
    assert budget.threshold > 2
    budget.decide(np.full(20_000, 0.5, np.float32))
    assert budget.threshold == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("threshold", "share", "gain"), [(1, 0, 0.1), (1, 1, 0.1), (1, 0.1, 0), (0, 0.1, 0.1)]
)
def test_a_budget_that_makes_no_sense_is_refused(threshold, share, gain):
    with pytest.raises(SettingsError):
        AlarmBudget(threshold, share, gain)
