from __future__ import annotations

import numpy as np
import pytest

from datasentinel.distributed.prometheus.client import Grid, Series
from datasentinel.distributed.prometheus.config import Model
from datasentinel.distributed.prometheus.fitting import training_rows, with_calendar
from datasentinel.distributed.prometheus.samples import join, refuse_ambiguous
from datasentinel.errors import DataError

GRID = Grid(15.0, 100, 3)
NAN = float("nan")


def series(values, **labels):
    return Series(labels, np.array(values, dtype=float))


def test_answers_are_joined_by_the_labels_that_all_have():
    loads = [
        series([1, 2, 3], __name__="load", host="a", zone="x"),
        series([4, 5, 6], __name__="load", host="b", zone="x"),
    ]
    delays = [series([7, 8, 9], host="b", region="r"), series([1, NAN, 3], host="a", region="r")]
    samples = join([loads, delays], GRID, ())
    assert samples.labels == ("host",)
    assert samples.keys == [("a",), ("b",)]
    np.testing.assert_array_equal(samples.values[1], [[4, 7], [5, 8], [6, 9]])
    np.testing.assert_array_equal(samples.complete, [[True, False, True], [True, True, True]])


def test_a_series_that_a_query_lacks_is_incomplete():
    samples = join([[series([1, 2, 3], host="a")], []], GRID, ("host",))
    assert samples.keys == [("a",)]
    assert not samples.complete.any()


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), 1e39])
def test_what_float32_does_not_hold_is_no_sample(value):
    samples = join([[series([1, value, 3], host="a")]], GRID, ("host",))
    np.testing.assert_array_equal(samples.complete, [[True, False, True]])


def test_series_that_labels_do_not_tell_apart_are_left_out_and_refused_in_training():
    twice = [series([1, 2, 3], host="a", cpu="0"), series([1, 2, 3], host="a", cpu="1")]
    samples = join([[*twice, series([1, 2, 3], host="b", cpu="0")]], GRID, ("host",))
    assert samples.keys == [("b",)]
    assert samples.ambiguous == 1
    with pytest.raises(DataError, match=r"1 series cannot be told apart by their labels \(host\)"):
        refuse_ambiguous(samples, "aggregate it")


def test_series_that_follow_each_other_under_the_same_labels_are_one():
    moved = [series([1, NAN, NAN], host="a", pod="1"), series([NAN, 2, 3], host="a", pod="2")]
    samples = join([moved], GRID, ("host",))
    np.testing.assert_array_equal(samples.values[0, :, 0], [1, 2, 3])


def test_rows_of_a_series_are_together_and_incomplete_ones_left_out():
    samples = join(
        [[series([1, 2, 3], host="a"), series([4, NAN, 6], host="b")], [series([0, 0, 0], host=h) for h in "ab"]],
        GRID,
        ("host",),
    )  # fmt: skip
    values, of, moments = training_rows([samples], max_rows=100)
    np.testing.assert_array_equal(values[:, 0], [1, 2, 3, 4, 6])
    np.testing.assert_array_equal(of, [0, 0, 0, 1, 1])
    np.testing.assert_array_equal(moments, [100, 101, 102, 100, 102])


def test_the_last_rows_are_taken_and_parts_kept_apart():
    first = join([[series([1, 2, 3], host="a")]], GRID, ("host",))
    second = join([[series([4, 5, 6], host="a")]], Grid(15.0, 103, 3), ("host",))
    values, of, moments = training_rows([first, second], max_rows=5)
    np.testing.assert_array_equal(values[:, 0], [2, 3, 4, 5, 6])
    np.testing.assert_array_equal(of, [0, 0, 1, 1, 1])
    np.testing.assert_array_equal(moments, [101, 102, 103, 104, 105])


def test_a_season_adds_the_second_of_the_week():
    monday_s = 1_767_571_200  # 2026-01-05 00:00 UTC
    rows, times_s = np.ones((2, 1)), np.array([monday_s, monday_s + 3600.0])
    model = Model(name="m", queries={"x": "x"}, season="day", time_zone="Europe/Berlin")
    np.testing.assert_array_equal(with_calendar(rows, times_s, model), [[1, 3600], [1, 7200]])
    assert with_calendar(rows, times_s, Model(name="m", queries={"x": "x"})) is rows
