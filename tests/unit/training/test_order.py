from __future__ import annotations

import numpy as np
import pytest

from datasentinel.errors import DataError, SettingsError
from datasentinel.training import TrainingSettings, train
from datasentinel.training.context import ContextModel
from datasentinel.training.recording import Order
from tests.recordings import noisy, oscillations


def test_rows_of_a_series_are_put_together_in_their_order():
    series = ["a", "b", "a", "c", "b", "a"]
    times = np.array([0.0, 5.0, 10.0, 1.0, 15.0, 20.0])
    rows, order = Order.of_rows(series, times)
    assert rows.tolist() == [0, 2, 5, 1, 4, 3]
    assert order == Order((0, 3, 5), 10.0)
    assert Order.of_rows(series)[1] == Order((0, 3, 5))


def test_rows_that_share_times_are_apart_by_their_part_of_the_usual_step():
    minutes = np.repeat(np.arange(30), 4)[2:] * 60.0
    assert Order.of_rows(["a"] * len(minutes), minutes)[1].row_s == 15
    both = Order.of_rows(["a", "b"] * len(minutes), np.repeat(minutes, 2))[1]
    assert both.row_s == 15
    few = np.sort([*np.arange(30) * 10.0, 50, 90, 90])
    assert Order.of_rows(["a"] * len(few), few)[1].row_s == 10
    assert Order.of_rows(["a"] * 9, np.ones(9))[1].row_s is None


def test_rows_that_go_back_in_time_are_refused_by_number():
    with pytest.raises(DataError, match="row 3 is earlier than the one before it in its series"):
        Order.of_rows(["a", "b", "b", "a"], np.array([9.0, 1.0, 2.0, 8.0]))


def test_rows_from_the_latest_on_are_said_to_be_so():
    with pytest.raises(
        DataError, match=r"row 1 is .*, as are all others \(the latest comes first\): .* time$"
    ):
        Order.of_rows(["a"] * 3, np.array([120.0, 60.0, 0.0]))


def test_an_hour_that_comes_twice_is_said_how_to_write():
    times = np.array([0.0, 600.0, -2400.0, -1800.0])
    with pytest.raises(DataError, match=r"row 2 is earlier .* twice as summer time ends, .* offset from UTC"):
        Order.of_rows(["a"] * 4, times)
    with pytest.raises(DataError, match=r"in order of time$"):
        Order.of_rows(["a"] * 2, np.array([0.0, -3601.0]))


def test_a_gap_that_nothing_is_remembered_across_begins_a_recording():
    times = np.concatenate([np.arange(50) * 10.0, 1500 + np.arange(50) * 10.0])
    rows, order = Order.of_rows(["a"] * 100, times)
    assert order.split_at_gaps(times[rows], 96).starts == (0, 50)
    assert order.split_at_gaps(times[rows], 120).starts == (0,)


def test_what_is_left_out_leaves_the_recordings_apart():
    order = Order((0, 4, 6), 1.0)
    assert order.of(np.array([0, 1, 5, 6, 7])) == Order((0, 2, 3), 1.0)
    assert order.of(np.array([1, 2])) == Order((0,), 1.0)
    assert np.flatnonzero(order.ends(10, 0.5)).tolist() == [2, 3, 4, 5, 8, 9]
    assert np.flatnonzero(order.ends(10, 0.5, warm_up_rows=3)).tolist() == [3, 9]
    assert np.flatnonzero(Order().ends(10, 0.3, warm_up_rows=9)).tolist() == [7, 8, 9]


def test_a_detector_of_several_recordings_scores_each_from_its_beginning():
    recordings = [oscillations(600, seed=seed) for seed in range(3)]
    rows = np.concatenate(recordings)
    order = Order((0, 600, 1200))
    result = train(rows, settings=TrainingSettings(model="context"), order=order)
    model = result.model
    assert isinstance(model, ContextModel)
    together = model.score(rows, order.starts)
    np.testing.assert_allclose(together, np.concatenate([model.score(r) for r in recordings]), rtol=1e-6)
    assert result.rows_held_out == 3 * 150
    new = noisy(oscillations(800, seed=9), 600, 640)
    scores = model.score(new)
    threshold = result.calibration.threshold
    assert (scores[600:640] > threshold).mean() > 0.5
    assert (scores[96:600] > threshold).mean() <= 0.02


def test_recordings_that_are_all_shorter_than_the_warm_up_are_refused():
    rows = oscillations(400)
    with pytest.raises(DataError, match="no recording is longer than the 96 rows"):
        train(rows, settings=TrainingSettings(model="context"), order=Order(tuple(range(0, 400, 50))))


def test_half_lives_are_those_asked_for():
    rows = oscillations(1500)
    result = train(rows, settings=TrainingSettings(model="context", half_lives=(5.0,)))
    assert isinstance(result.model, ContextModel)
    assert result.model.memory.half_lives == (5.0,)
    assert result.model.memory.warm_up_rows == 15


@pytest.mark.parametrize(
    ("model", "half_lives", "message"),
    [
        ("subspace", (8.0,), "for the model 'context' only"),
        ("context", (8.0, 8.0), "must differ"),
        ("context", (0.5,), "between 1 and 100000 rows"),
    ],
)
def test_half_lives_that_make_no_sense_are_refused(model, half_lives, message):
    with pytest.raises(SettingsError, match=message):
        TrainingSettings(model=model, half_lives=half_lives)
