"""Counts that are made in parts tell what all scores at once would."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from datasentinel.calibration import ScoreTable, calibrate
from datasentinel.errors import DataError
from datasentinel.score_counts import (
    CountedScores,
    ScoreCounts,
    calibrate_counts,
    intervals_to_count,
    keys_of,
    require_same_rows,
    scores_of,
)

FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)


def calibrated_in_parts(scores, target_fpr, parts=7, left_out=()):
    pieces = np.array_split(np.random.default_rng(0).permutation(scores), parts)
    coarse = ScoreCounts.total(map(ScoreCounts.coarse, pieces)).without(
        ScoreCounts.coarse(np.float32(left_out))
    )
    wanted = intervals_to_count(coarse, target_fpr)
    fine = ScoreCounts.total(ScoreCounts.fine(piece, wanted) for piece in pieces)
    return calibrate_counts(
        coarse, fine.without(ScoreCounts.fine(np.float32(left_out), wanted)), target_fpr=target_fpr
    )


@settings(max_examples=50, suppress_health_check=[HealthCheck.too_slow])
@given(arrays(np.float32, st.integers(1, 40), elements=FINITE))
def test_keys_have_the_order_of_scores(scores):
    scores = scores + np.float32(0)
    assert (np.argsort(keys_of(scores), kind="stable") == np.argsort(scores, kind="stable")).all()
    assert (scores_of(keys_of(scores)) == scores).all()


SAMPLES = {
    "lognormal": lambda random, n: random.lognormal(0, 1, n),
    "heavy tail": lambda random, n: random.pareto(1.1, n),
    "of both signs": lambda random, n: random.normal(0, 3, n),
    "narrow": lambda random, n: 1000 + random.normal(0, 1e-3, n),
    "few values": lambda random, n: random.integers(0, 5, n),
    "one value": lambda _, n: np.zeros(n),
}


@pytest.mark.parametrize("name", SAMPLES)
@pytest.mark.parametrize(("rows", "target_fpr"), [(1, 0.01), (50, 0.01), (30_001, 0.001), (30_000, 0.3)])
def test_the_threshold_is_that_of_all_scores(name, rows, target_fpr):
    scores = SAMPLES[name](np.random.default_rng(rows), rows).astype(np.float32)
    expected = calibrate(scores, method="conformal", target_fpr=target_fpr)
    found = calibrated_in_parts(scores, target_fpr)
    assert found.threshold == expected.threshold
    assert found.fpr_bound == expected.fpr_bound
    assert found.rows == rows


@settings(max_examples=50, suppress_health_check=[HealthCheck.too_slow])
@given(arrays(np.float32, st.integers(2, 40), elements=st.floats(-(2.0**99), 2.0**99, width=32)))
def test_so_it_is_for_any_scores(scores):
    expected = calibrate(scores, method="conformal", target_fpr=0.1)
    assert calibrated_in_parts(scores, 0.1, parts=3).threshold == expected.threshold


@pytest.mark.parametrize("name", SAMPLES)
def test_p_values_are_raised_by_no_more_than_is_said(name):
    scores = SAMPLES[name](np.random.default_rng(1), 50_000).astype(np.float32)
    table = calibrated_in_parts(scores, 0.01).table
    ordered = np.sort(scores)
    some = np.unique(np.concatenate([ordered[-300:], ordered[::97]]))
    exact = (1 + len(scores) - np.searchsorted(ordered, some, "left")) / (1 + len(scores))
    below = np.searchsorted(table.scores, some, "left") - 1
    told = (1 + np.where(below < 0, table.rows, table.greater[below])) / (1 + table.rows)
    assert (told >= exact - 1e-12).all()
    assert (told <= 1.0404 * exact + 1e-12).all()
    top = some > ordered[-200]
    assert (told[top] == exact[top]).all()


def test_rows_trained_on_are_taken_away():
    scores = np.random.default_rng(2).lognormal(0, 1, 20_000).astype(np.float32)
    sample, rest = scores[:3000], scores[3000:]
    found = calibrated_in_parts(scores, 0.01, left_out=sample)
    assert found.threshold == calibrate(rest, method="conformal", target_fpr=0.01).threshold
    assert found.rows == len(rest)


def test_rows_that_were_not_there_cannot_be_taken_away():
    counts = ScoreCounts.coarse(np.float32([1, 2, 3]))
    with pytest.raises(DataError, match="not among those counted"):
        counts.without(ScoreCounts.coarse(np.float32([4])))


def test_there_must_be_scores():
    with pytest.raises(DataError, match="no rows"):
        intervals_to_count(ScoreCounts.total([]), 0.01)


@pytest.mark.parametrize("lost", [np.finfo(np.float32).max, -np.finfo(np.float32).max, np.inf, np.nan])
def test_scores_that_overflowed_are_refused_as_by_one_process(lost):
    scores = np.random.default_rng(4).lognormal(0, 1, 5_000).astype(np.float32)
    scores[7:17] = lost
    for find in (
        lambda: calibrate(scores, method="conformal", target_fpr=0.01),
        lambda: calibrated_in_parts(scores, 0.01),
    ):
        with pytest.raises(DataError, match="10 of 5000 normal rows have no finite score"):
            find()


def test_both_passes_must_have_seen_the_same_rows():
    scores = np.random.default_rng(5).lognormal(0, 1, 1_000).astype(np.float32)
    coarse = ScoreCounts.coarse(scores)
    wanted = intervals_to_count(coarse, 0.01)
    require_same_rows(coarse, ScoreCounts.fine(scores, wanted), wanted)
    moved = scores.copy()
    moved[np.argmax(moved)] = 0
    for other in (np.delete(scores, np.argmax(scores)), np.append(scores, scores.max()), moved):
        with pytest.raises(DataError, match="the data changed between the two passes"):
            require_same_rows(coarse, ScoreCounts.fine(other, wanted), wanted)


def test_a_table_of_counts_is_that_of_the_scores():
    scores = np.random.default_rng(3).integers(0, 30, 500).astype(np.float32)
    fine = ScoreCounts.fine(scores, np.unique(keys_of(scores) >> 12))
    table, expected = CountedScores.of(ScoreCounts.coarse(scores), fine).table(), ScoreTable.of(scores)
    assert (table.scores == expected.scores).all()
    assert (table.greater == expected.greater).all()
