"""Which rows are earlier than the one before them in their series."""

from __future__ import annotations

from datasentinel.series import Chronology
from datasentinel.streams import MAX_STREAMS


def test_rows_that_are_earlier_are_counted_by_series():
    chronology = Chronology()
    chronology.follow(["a", "b", "a", "b"], [2.0, 1.0, 2.0, None])
    assert not chronology.problem
    chronology.follow(["a", "b", "b"], [1.0, 0.5, 3.0])
    assert chronology.earlier_rows == 2
    assert chronology.problem.startswith("2 rows are earlier")


def test_no_more_series_are_remembered_than_by_a_model():
    """For as long as rows come, over Flight say, each of a new series."""
    chronology = Chronology()
    chronology.follow(list(map(str, range(MAX_STREAMS + 1))), [1.0] * (MAX_STREAMS + 1))
    chronology.follow(["0"], [0.0])
    assert chronology.earlier_rows == 0
