"""Real detectors keep the false-positive rate that their calibration promises."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import betabinom

from datasentinel.backend import PValueTable
from datasentinel.calibration import ScoreTable, calibrate
from datasentinel.training import TrainingSettings, train

FRESH = 4000
# Of a result that far out by chance; seeds are fixed, but the last digits of scores depend on the machine.
UNLIKELY = 1e-4


def rows_of(count, seed):
    """Six columns with three causes, heavy tails in one of them."""
    random = np.random.default_rng(seed)
    causes = random.normal(size=(count, 3))
    values = causes @ np.random.default_rng(99).normal(size=(3, 6)) + 0.3 * random.normal(size=(count, 6))
    values[:, 0] += random.standard_t(3, size=count)
    return values.astype(np.float32)


@pytest.fixture(scope="module", params=["ensemble", "autoencoder"])
def trained(request):
    steps = 100 if request.param == "ensemble" else None
    return train(rows_of(1200, seed=0), settings=TrainingSettings(model=request.param, steps=steps))


def p_values_of(table, scores):
    native = PValueTable(scores=table.scores.tolist(), greater=table.greater.tolist(), rows=table.rows)
    return native.p_values(scores)


def chance(calibration_rows, target_fpr, fresh=FRESH):
    """How many of the fresh rows are called anomalies, if calibration and fresh rows are exchangeable."""
    k = int(target_fpr * (calibration_rows + 1) + 1e-9)
    return betabinom(fresh, k, calibration_rows + 1 - k)


@pytest.mark.parametrize("target_fpr", [0.01, 0.05, 0.2])
def test_fresh_calibration_rows_make_the_rate_exact(trained, target_fpr):
    calibration_scores = trained.model.score(rows_of(999, seed=1))
    calibration = calibrate(calibration_scores, method="conformal", target_fpr=target_fpr)
    fresh = trained.model.score(rows_of(FRESH, seed=2))
    false_positives = int(np.count_nonzero(fresh > calibration.threshold))
    expected = chance(999, target_fpr)
    assert calibration.fpr_bound == pytest.approx(target_fpr)
    assert expected.ppf(UNLIKELY) <= false_positives <= expected.ppf(1 - UNLIKELY)


@pytest.mark.parametrize("target_fpr", [0.01, 0.05, 0.2])
def test_what_training_calibrates_has_no_more_false_positives(trained, target_fpr):
    table = trained.calibration.table
    p_values = p_values_of(table, trained.model.score(rows_of(FRESH, seed=3)))
    false_positives = int(np.count_nonzero(p_values <= target_fpr))
    expected = chance(table.rows, target_fpr)
    # The served model saw the held-out rows, so there may be fewer, but not none.
    assert expected.ppf(UNLIKELY) / 2 <= false_positives <= expected.ppf(1 - UNLIKELY)
    assert false_positives > 0


@pytest.mark.parametrize("target_fpr", [0.001, 0.01, 0.1])
def test_a_table_of_many_scores_keeps_the_rate(target_fpr):
    random = np.random.default_rng(4)
    table = ScoreTable.of(random.gamma(2, size=50_000).astype(np.float32))
    assert len(table.scores) < 1000
    p_values = p_values_of(table, random.gamma(2, size=50_000).astype(np.float32))
    expected = chance(50_000, target_fpr, fresh=50_000)
    false_positives = int(np.count_nonzero(p_values <= target_fpr))
    assert 0.97 * expected.ppf(UNLIKELY) <= false_positives <= expected.ppf(1 - UNLIKELY)
