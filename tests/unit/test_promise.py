from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import betabinom

from datasentinel.calibration import calibrate
from datasentinel.observed import LEVEL
from datasentinel.promise import broken, observe, promised_share


def calibration_of(rows=999, method="conformal", target_fpr=0.01):
    scores = np.linspace(0, 1, rows, dtype=np.float32)
    return calibrate(scores, method=method, target_fpr=target_fpr)


@pytest.mark.parametrize(("rows", "above"), [(100, 1), (100, 5), (2000, 31), (3, 3), (20, 20)])
def test_the_chance_is_scipys(rows, above):
    calibration = calibration_of()
    scores = np.where(np.arange(rows) < above, 2, 0).astype(np.float32)
    seen = observe(calibration, scores)
    assert (seen.rows, seen.above, seen.share) == (rows, above, above / rows)
    assert seen.chance == pytest.approx(betabinom(rows, 10, 990).sf(above - 1), rel=1e-6)


def test_no_row_above_is_always_fine():
    seen = observe(calibration_of(), np.zeros(50, np.float32))
    assert (seen.above, seen.chance, seen.kept) == (0, 1.0, True)
    assert observe(calibration_of(), np.empty(0, np.float32)).kept


def test_what_is_not_a_number_is_above():
    assert observe(calibration_of(), np.array([np.nan, 0], np.float32)).above == 1


@pytest.mark.parametrize(("method", "share"), [("conformal", 0.05), ("quantile", 0.05), ("mean+3std", 0.1)])
def test_every_method_promises_something(method, share):
    assert promised_share(calibration_of(method=method, target_fpr=0.05)) == pytest.approx(share)


def test_rows_that_resemble_each_other_count_for_less():
    scores = np.where(np.arange(1000) < 30, 2, 0).astype(np.float32)
    alone, alike = (observe(calibration_of(), scores, share) for share in (1.0, 0.1))
    assert alone.chance < LEVEL < alike.chance
    assert alone.above == alike.above == 30


def test_a_broken_promise_names_the_rows_and_the_shares():
    calibration = calibration_of()
    good, bad = (observe(calibration, np.full(200, value, np.float32)) for value in (0, 2))
    assert not broken(calibration, {"training rows": good})
    text = broken(calibration, {"training rows": good, "control rows": bad})
    assert "200 of 200 control rows (100.00%)" in text
    assert "training rows" not in text
    assert "at most 1.00% is promised" in text


def test_honest_calibrations_pass_as_often_as_they_should():
    random = np.random.default_rng(0)
    passed = 0
    for _ in range(300):
        calibration = calibrate(
            random.normal(size=300).astype(np.float32), method="conformal", target_fpr=0.01
        )
        passed += observe(calibration, random.normal(size=500).astype(np.float32)).kept
    assert passed >= 297
