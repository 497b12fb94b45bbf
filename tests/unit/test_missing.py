"""Missing values are carried as if the recording had been filled forward beforehand."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datasentinel.artifact import format_config, parse_config
from datasentinel.backend import StateStore, StreamRules
from datasentinel.detector import Detector
from datasentinel.errors import ArtifactError, DataError, InvalidInputError, SettingsError
from datasentinel.estimator import AutoencoderDetector
from datasentinel.missing import fill_forward
from datasentinel.streams import StreamDetector
from datasentinel.training import TrainingSettings, context
from tests.recordings import oscillations
from tests.unit.training.test_recording import recording


def with_gaps(rows, share=0.2, seed=0):
    """Take values out at random; the first row lacks one, too."""
    lacking = rows.copy()
    lacking[np.random.default_rng(seed).random(rows.shape) < share] = np.nan
    lacking[0, 1] = np.nan
    return lacking


def filled_by_hand(rows, first_values, starts=(0,)):
    filled, last = rows.copy(), first_values
    for i, row in enumerate(filled):
        if i in starts:
            last = np.asarray(first_values, rows.dtype)
        row[np.isnan(row)] = last[np.isnan(row)]
        last = row
    return filled


@pytest.fixture(scope="module")
def estimator():
    return AutoencoderDetector(model="context", missing="carry").fit(with_gaps(oscillations(2000)))


@pytest.fixture(scope="module")
def detector(estimator):
    return Detector(estimator.artifact_, backend="fused")


@given(seed=st.integers(0, 1 << 30), share=st.floats(0, 1), starts=st.sets(st.integers(1, 29)))
def test_filling_forward_is_what_a_loop_does(seed, share, starts):
    rows = with_gaps(np.random.default_rng(seed).normal(size=(30, 3)), share, seed)
    begin = (0, *sorted(starts))
    np.testing.assert_array_equal(
        fill_forward(rows, (7.0, 8.0, 9.0), begin), filled_by_hand(rows, (7.0, 8.0, 9.0), begin)
    )


@settings(max_examples=25)
@given(seed=st.integers(0, 1 << 30), share=st.floats(0, 1), most=st.integers(1, 40))
def test_interleaved_streams_score_as_if_filled_beforehand(detector, seed, share, most):
    """In whatever order the rows of several streams come, and in whatever calls."""
    random = np.random.default_rng(seed)
    first_values = detector.artifact.config.first_values
    recordings = [with_gaps(oscillations(40, i), share, seed + i) for i in range(3)]
    filled = [filled_by_hand(rows, first_values) for rows in recordings]
    expected = [detector.score(rows) for rows in filled]
    order = random.permutation(np.repeat(np.arange(3), 40))
    turns = [np.count_nonzero(order[:i] == stream) for i, stream in enumerate(order)]
    streams = StreamDetector(detector)
    first = 0
    while first < len(order):
        end = first + int(random.integers(1, most + 1))
        places = list(zip(order[first:end], turns[first:end], strict=True))
        asked = np.array([recordings[stream][turn] for stream, turn in places])
        sent, as_scored = asked.copy(), np.empty_like(asked)
        scores, _ = streams.update_many(sent, order[first:end].tolist(), filled=as_scored)
        wanted = [expected[stream][turn] for stream, turn in places]
        np.testing.assert_allclose(scores, wanted, rtol=2e-4, atol=1e-5)
        np.testing.assert_array_equal(as_scored, [filled[stream][turn] for stream, turn in places])
        np.testing.assert_array_equal(sent, asked)  # The caller's own stay as they are.
        first = end


def test_the_estimator_and_the_detector_fill_forward_each_recording(estimator, detector):
    rows = with_gaps(oscillations(300, seed=5))
    first_values = detector.artifact.config.first_values
    np.testing.assert_array_equal(
        estimator.score_samples(rows), estimator.score_samples(filled_by_hand(rows, first_values))
    )
    groups = ["a"] * 120 + ["b"] * 180
    by_hand = filled_by_hand(rows, first_values, starts=(0, 120))
    np.testing.assert_allclose(
        estimator.score_samples(rows, groups=groups),
        np.concatenate([estimator.score_samples(by_hand[:120]), estimator.score_samples(by_hand[120:])]),
        rtol=2e-4,
        atol=1e-5,
    )
    assert all(np.isfinite(reason.value) for row in detector.explain(rows, top=3) for reason in row)
    _, _, reasons = StreamDetector(detector).explain_many(rows, groups, top=3)
    assert all(np.isfinite(reason.value) for row in reasons for reason in row)


def test_a_gap_and_a_restart_carry_nothing_over(estimator):
    config = estimator.artifact_.config
    artifact = replace(estimator.artifact_, config=replace(config, state={**config.state, "gap_s": 10.0}))
    detector = Detector(artifact, backend="fused")
    rows = oscillations(6, seed=2)
    rows[3] = np.nan
    filled = np.empty_like(rows)
    StreamDetector(detector).update_many(rows, ["a"] * 6, [0, 1, 2, 50, 51, 52], filled=filled)
    np.testing.assert_array_equal(filled[3], np.asarray(config.first_values, np.float32))
    streams = StreamDetector(detector)
    streams.update_many(rows[:3], ["a"] * 3)
    streams.forget("a")
    streams.update_many(rows[3:4], ["a"], filled=filled[:1])
    np.testing.assert_array_equal(filled[0], np.asarray(config.first_values, np.float32))


def test_a_column_that_stays_away_is_said_to_be_stale(detector, tmp_path):
    bound = detector.artifact.config.stale_rows
    assert bound == 4 * max(detector.artifact.config.state["half_lives_rows"])
    rows = oscillations(bound + 3)
    rows[1:, 2] = np.nan
    streams = StreamDetector(detector)
    streams.scan(rows[: bound + 1], "a")
    assert (streams.stale, streams.stale_rows, streams.stale_columns("a")) == (0, 0, [])
    streams.save(tmp_path / "states")
    streams.scan(rows[bound + 1 :], "a")
    assert (streams.stale, streams.stale_rows, streams.stale_columns("a")) == (1, 2, ["x2"])
    restored = StreamDetector(detector)
    restored.restore(tmp_path / "states")
    restored.scan(rows[bound + 1 :], "a")
    assert (restored.stale, restored.stale_columns("a")) == (1, ["x2"])
    streams.scan(oscillations(1), "a")
    assert (streams.stale, streams.stale_columns("a")) == (0, [])
    assert streams.stale_columns("b") == []


def test_refused_rows_are_as_they_were_and_change_nothing(detector):
    streams = StreamDetector(detector)
    rows = with_gaps(oscillations(20, seed=3))
    streams.scan(rows[:10], "a")
    rows[15, 3] = np.inf
    with pytest.raises(InvalidInputError, match="non-finite value at row 5, column 3"):
        streams.scan(rows[10:], "a")
    rows[15, 3] = np.nan
    undisturbed = StreamDetector(detector)
    undisturbed.scan(rows[:10], "a")
    np.testing.assert_array_equal(streams.scan(rows[10:], "a")[0], undisturbed.scan(rows[10:], "a")[0])


def test_other_models_refuse_missing_values():
    estimator = AutoencoderDetector(model="context").fit(oscillations(1000))
    with pytest.raises(ValueError, match="NaN"):
        estimator.score_samples(with_gaps(oscillations(50)))
    with pytest.raises(InvalidInputError, match="non-finite value at row 0, column 1"):
        StreamDetector(Detector(estimator.artifact_, backend="fused")).scan(with_gaps(oscillations(50)), "a")
    with pytest.raises(SettingsError, match="'context' only"):
        TrainingSettings(model="subspace", missing="carry")
    with pytest.raises(SettingsError, match="unknown missing"):
        TrainingSettings(model="context", missing="drop")


def test_a_recording_whose_rows_are_steadiest_keeps_a_memory_to_carry_by(monkeypatch):
    monkeypatch.setattr(
        context, "steadiest", lambda spreads: [name for name in spreads if name == "rows"][:1] or ["long"]
    )
    rows = recording(rows=2000)
    assert not AutoencoderDetector(model="context").fit(rows).artifact_.config.state
    estimator = AutoencoderDetector(model="context", missing="carry").fit(with_gaps(rows, 0.01))
    assert estimator.artifact_.config.state["half_lives_rows"] == [8, 32]
    assert np.isfinite(estimator.score_samples(with_gaps(rows[:50]))).all()


def test_a_column_without_any_value_is_refused():
    rows = oscillations(500).astype(np.float64)
    rows[:, 2] = np.nan
    with pytest.raises(DataError, match="column 2 has no value in any normal row"):
        AutoencoderDetector(model="context", missing="carry").fit(rows)


def test_config_is_checked(detector, tmp_path):
    config = detector.artifact.config
    missing = config.state["missing"]
    for wrong in (
        {**missing, "first_values": missing["first_values"][:-1]},
        {**missing, "first_values": ["a"] * 7},
        {**missing, "stale_rows": 0},
        [1],
    ):
        document = json.loads(format_config(config))
        document["state"]["missing"] = wrong
        with pytest.raises(ArtifactError, match="state"):
            parse_config(json.dumps(document).encode(), where=tmp_path)
    document["state"]["missing"] = {"first_values": [None, *missing["first_values"][1:]], "stale_rows": 5}
    parsed = parse_config(json.dumps(document).encode(), where=tmp_path)
    assert np.isnan(parsed.first_values[0])
    assert parsed.stale_rows == 5


def test_a_column_without_a_first_value_must_have_its_own(detector):
    first_values = [float("nan"), *detector.artifact.config.first_values[1:]]
    rules = StreamRules(warm_up_rows=3, first_values=first_values, stale_rows=5)
    store = StateStore(detector.scorer.state_dim, rules, max_streams=2)
    row = oscillations(1)
    row[0, 1] = np.nan
    store.score(detector.scorer, rules, row.copy(), ["a"])
    row[0, 0] = np.nan
    with pytest.raises(InvalidInputError, match="row 0, column 0"):
        store.score(detector.scorer, rules, row, ["a"])
    rows = np.array([[1, 2, 3], [np.nan, np.nan, 4]], np.float32)
    filled = fill_forward(rows, (float("nan"), 8.0, 9.0))
    np.testing.assert_array_equal(filled, [[1, 2, 3], [np.nan, 2, 4]])


@pytest.mark.parametrize("columns", [2, 4, 100])
def test_rules_for_another_number_of_columns_than_the_model_s_are_refused(detector, columns):
    rules = StreamRules(first_values=[0.0] * columns, stale_rows=5)
    store = StateStore(detector.scorer.state_dim, rules, max_streams=2)
    for width in (columns, detector.input_dim):
        with pytest.raises(InvalidInputError, match="values are carried for each of a model's 7 columns"):
            store.score(detector.scorer, rules, np.zeros((1, width), np.float32), ["a"])
    assert len(store) == 0
    without = StateStore(detector.scorer.state_dim, StreamRules(), max_streams=2)
    without.insert(["a"], StreamRules(), np.zeros((1, without.record_size), np.float32))
    with pytest.raises(InvalidInputError, match=f"values are carried for {columns} columns"):
        without.stale_columns("a", rules)
    with pytest.raises(InvalidInputError, match=f"values are carried for {columns} columns"):
        without.insert(["b"], rules, np.zeros((1, without.record_size), np.float32))


def test_missing_values_in_rows_of_another_width_are_an_error(detector):
    with pytest.raises(InvalidInputError, match="values per row"):
        detector.score(np.full((2, detector.input_dim + 1), np.nan, np.float32))
