"""What must hold on every table, on tables that Hypothesis makes up."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from datasentinel.errors import DataError
from datasentinel.promise import promised_share, tail_probability
from datasentinel.training import TrainingSettings, train
from tests.unit.training.any_table import STRUCTURES, Table

FRESH = 1500
# Of all examples together; seeds are fixed, but the last digits of scores depend on the machine.
FAMILY_WISE = 1e-4
# With fewer rows neither can the check see a broken promise, nor this test.
ENOUGH_ROWS = 50


# Offset and scale; the last two are more than float32 holds.
UNITS = (
    (0.0, 1.0), (0.0, 1e-30), (0.0, 1e30), (1.0, 1.0), (-100.0, 1e-3), (1e4, 1e3), (101325.0, 0.05), (230e6, 100.0),
    (1e9, 1e3), (1e12, 1e5), (1e12, 1e7), (1.7e9, 30.0), (1e12, 1.0),
)  # fmt: skip


def tables(widest):
    return st.builds(
        Table,
        structure=st.sampled_from(STRUCTURES),
        width=st.integers(0, 100).map(lambda i: round(widest ** (i / 100))),
        unit=st.sampled_from(UNITS),
        seed=st.integers(0, 2**31),
    )


def counts(most):
    return st.integers(0, 100).map(lambda i: round(10 * (most / 10) ** (i / 100)))


def check(table, count, *, examples):
    rows = table.rows(count, sample=0)
    # An overflow within a model is caught there; a warning of NumPy's would come from nowhere else.
    with np.errstate(all="ignore"):
        float32_varies = bool(np.ptp(rows.astype(np.float32), axis=0).any())
        result, refusal = None, ""
        try:
            result = train(rows, settings=TrainingSettings(steps=5))
        except DataError as error:
            refusal = str(error)
        if result is None:
            event("refused")
            assert not float32_varies or "no threshold means anything" in refusal
            return
        event(f"{result.model.facts()['model']}{', repaired' if result.repaired else ''}")
        scores = result.model.score(table.rows(FRESH, sample=1).astype(np.float32))
        assert np.isfinite(scores).all()
        calibration = result.calibration
        above = int(np.count_nonzero(scores > calibration.threshold))
        chance = tail_probability(above, FRESH, promised_share(calibration), calibration.rows)
        if count >= ENOUGH_ROWS:
            assert chance >= FAMILY_WISE / examples, f"{above} of {FRESH} fresh rows are called anomalies"
        if count >= ENOUGH_ROWS and is_tame(rows):
            event("searched for a departure")
            column = int(np.argmax(rows.astype(np.float32).std(axis=0)))
            departed = rows[:20].copy()
            departed[:, column] = rows[:, column].mean() + 20 * rows[:, column].std()
            found = result.model.score(departed.astype(np.float32)) > calibration.threshold
            assert found.mean() >= 0.9


def is_tame(rows):
    """Whether no normal row is as far out as the departure, and float32 holds the columns."""
    values = rows.astype(np.float32).astype(np.float64)
    centred, deviations = np.abs(values - values.mean(axis=0)), values.std(axis=0)
    resolved = deviations > 2 * np.spacing(np.abs(values).max(axis=0).astype(np.float32))
    usual = (values == np.median(values, axis=0)).mean(axis=0) < 0.9
    near = (centred < 6 * deviations).all(axis=0)
    return bool((resolved & usual & near).all())


QUICK, THOROUGH = 50, 150
MOST_VALUES = 100_000
COMMON = {
    "derandomize": True,
    "deadline": None,
    "database": None,
    "suppress_health_check": [HealthCheck.too_slow],
}


@settings(max_examples=QUICK, **COMMON)
@given(table=tables(widest=40), count=counts(most=700))
def test_promises_hold_on_any_table(table, count):
    check(table, count, examples=QUICK)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@settings(max_examples=THOROUGH, **COMMON)
@given(table=tables(widest=400), count=counts(most=3000))
def test_promises_hold_on_many_tables(table, count):
    if count * table.width > MOST_VALUES:
        count = max(10, MOST_VALUES // table.width)
    check(table, count, examples=THOROUGH)
