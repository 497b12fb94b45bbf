"""No detector leaves training that breaks its promise on the rows that are there."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest

from datasentinel.errors import DataError
from datasentinel.training import TrainingSettings, fitting, train
from datasentinel.training.copies import find_copies
from datasentinel.training.ensemble import fit_ensemble

QUICK = TrainingSettings(steps=20)


def normal_rows(count, seed=0, width=5):
    random = np.random.default_rng(seed)
    return random.normal(size=(count, 2)) @ np.ones((2, width)) + 0.5 * random.normal(size=(count, width))


def share_above(result, rows):
    return np.mean(result.model.score(rows.astype(np.float32)) > result.calibration.threshold)


def test_what_the_served_model_does_is_on_record():
    result = train(normal_rows(600), settings=QUICK)
    observed = result.calibration.facts()["observed"]
    assert observed["training rows"]["rows"] == 600
    assert observed["control rows"]["rows"] == 60
    assert observed["control rows"]["above"] <= 4
    assert not result.repaired
    assert not result.warnings


@pytest.mark.parametrize("count", [200, 900])
def test_a_model_that_was_calibrated_as_another_one_is_replaced(monkeypatch, count):
    """Held-out scores that say nothing of what is served: what duplicates and thin folds did."""

    def lie(rows, **options):
        fitted = fit_ensemble(rows, **options)
        return dataclasses.replace(fitted, held_out_scores=fitted.held_out_scores / 100)

    monkeypatch.setattr(fitting, "fit_ensemble", lie)
    result = train(normal_rows(count), settings=QUICK)
    assert re.search(r"of \d+ control rows \([3-9]\d\.", result.repaired)
    assert any(result.repaired in warning for warning in result.warnings)
    assert share_above(result, normal_rows(4000, seed=1)) < 4 * result.calibration.fpr_bound
    assert result.rows_trained + result.rows_held_out == count


def test_a_model_that_cannot_be_calibrated_is_refused(monkeypatch):
    """One that holds every row it is asked about for stranger than those before.

    Where the choice is ours, a subspace takes its place.
    """
    asked = 0

    def drifting(rows, **options):
        fitted = fit_ensemble(rows, **options)

        def score(rows):
            nonlocal asked
            asked += 1
            return np.full(len(rows), 10 * asked, np.float32) + rows[:, 0]

        object.__setattr__(fitted.model, "score", score)
        return fitted

    monkeypatch.setattr(fitting, "fit_ensemble", drifting)
    with pytest.raises(DataError, match=r"200 of 200 training rows \(100.00%\).*no threshold means anything"):
        train(normal_rows(200), settings=TrainingSettings(model="ensemble", steps=20))
    result = train(normal_rows(200), settings=QUICK)
    assert result.model.facts()["model"] == "subspace"
    assert "control rows (100.00%)" in result.repaired
    assert share_above(result, normal_rows(4000, seed=1)) < 4 * result.calibration.fpr_bound


def on_off(random, n):
    return random.random((n, 5)) < [0.5, 0.2, 0.05, 0.9, 0.5]


def status(random, n):
    return np.c_[random.choice([200, 200, 200, 304, 404, 500], n), random.integers(0, 3, n)]


def rare_spike(random, n):
    return np.c_[np.where(random.random(n) < 0.002, 5.0, 0.0), np.ones(n)]


@pytest.mark.parametrize(("make", "count"), [(on_off, 1000), (status, 1000), (rare_spike, 3000)])
def test_repeated_rows(make, count):
    random = np.random.default_rng(1)
    rows = make(random, count)
    result = train(rows, settings=QUICK)
    assert share_above(result, rows) <= 0.02
    assert share_above(result, make(random, 2000)) <= 0.03


MIXTURE = np.random.default_rng(7).normal(size=(2, 6))


def continuous(random, n):
    return random.normal(size=(n, 2)) @ MIXTURE + 0.3 * random.normal(size=(n, 6))


COPIED = {
    "appended": lambda rows, random: np.tile(rows, (5, 1)),
    "shuffled": lambda rows, random: random.permutation(np.repeat(rows, 5, axis=0)),
    "not all of them": lambda rows, random: np.concatenate([rows, rows, rows[:90]]),
    "labelled": lambda rows, random: np.tile(rows, (5, 1)),
}


@pytest.mark.parametrize("how", COPIED)
def test_copies_of_rows_are_trained_on_once(how):
    """Held out beside their copies, they would be known: 30 % of new rows were anomalies."""
    random = np.random.default_rng(2)
    rows = COPIED[how](continuous(random, 100), random)
    labels = None
    if how == "labelled":
        rows = np.concatenate([rows, rows[:20] + 50])
        labels = np.arange(len(rows)) >= len(rows) - 20
    result = train(rows, labels=labels, settings=QUICK)
    assert "distinct ones" in result.copies
    assert result.copies in result.warnings
    assert result.rows_trained + (labels is not None) * 20 <= 100
    assert share_above(result, continuous(random, 4000)) < 4 * result.calibration.fpr_bound


def test_states_that_recur_are_no_copies():
    random = np.random.default_rng(3)
    states = continuous(random, 100)
    idle = continuous(random, 400)
    idle[random.random(400) < 0.4] = 0
    designed = np.tile([[i, j] for i in range(8) for j in range(8)], (10, 1))
    for rows in (on_off(random, 1000) * 1.0, idle, designed, continuous(random, 400)):
        assert find_copies(random.permutation(rows).astype(np.float32)) is None
    # Chance may have repeated these: they are kept, and named.
    drawn = find_copies(states[random.integers(100, size=1000)].astype(np.float32))
    assert drawn.kept.all()
    assert "if they are copies" in drawn.text
    percent = random.permutation(np.repeat(np.arange(100), 10))[:, np.newaxis]
    for rows in (percent, np.hstack([percent, np.ones_like(percent)])):
        assert find_copies(rows.astype(np.float32)) is None
    # A gauge that is read more often than it changes is a recording.
    assert find_copies(np.repeat(states, 5, axis=0).astype(np.float32)) is None


def test_a_cycle_comes_again():
    phase = np.arange(2000) % 200 / 200 * 2 * np.pi
    rows = np.column_stack([np.sin(phase), np.cos(phase), phase]).round(3)
    result = train(rows, settings=QUICK)
    assert result.recording
    assert "if they are copies" in result.copies
    assert result.rows_held_out == 500
    assert share_above(result, rows) == 0


def test_few_rows_of_many_columns():
    """Every row's share in the scales of the columns made it look nearer than new ones: 18 % were anomalies."""
    random = np.random.default_rng(4)
    shares = []
    for _ in range(2):
        result = train(random.normal(size=(20, 70)), settings=QUICK)
        assert "knows those held out too well" in result.repaired
        assert result.calibration.fpr_bound == pytest.approx(1 / 11, rel=0.01)
        shares.append(share_above(result, random.normal(size=(1000, 70))))
    assert np.mean(shares) < 2 / 11


def test_a_recording_whose_residuals_are_rounding():
    """Rank one but for float32's last bits: no row may be strange for the rounding of its own."""
    t = np.arange(2000)
    cause = np.sin(t / 40) + 0.3 * np.sin(t / 7)
    rows = cause[:, None] * np.array([1.0, -3.0, 0.1, 20.0]) + [5, 100, 1, 0]
    result = train(rows, settings=QUICK)
    assert result.recording
    assert result.model.facts()["model"] == "subspace"
    assert result.calibration.threshold >= 1
    assert share_above(result, rows) == 0
    broken = rows[:200].copy()
    broken[:, 1] += 0.1 * rows[:, 1].std()
    assert share_above(result, broken) == 1


def test_a_recording_that_starts_constant_is_trained_on():
    rows = np.zeros((800, 3))
    rows[650:, :2] = np.sin(np.arange(150) / 20)[:, None] * [1, 2]
    result = train(rows, settings=QUICK)
    assert np.isfinite(result.model.score(rows.astype(np.float32))).all()
