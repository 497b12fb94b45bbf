from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from datasentinel.distributed.prometheus.scoring import SeriesScorer
from datasentinel.distributed.prometheus.states import SeriesStates, load_states, save_states
from datasentinel.errors import ArtifactError
from datasentinel.streams import StreamDetector
from tests.unit.distributed.prometheus.conftest import STEP_S, samples_of

WARM_UP = 96


@pytest.fixture(scope="module")
def scorer(detector, model) -> SeriesScorer:
    assert detector.artifact.config.warm_up_rows == WARM_UP
    return SeriesScorer(detector, model)


def new_states(detector):
    return SeriesStates.new("digest", -1, detector.scorer.state_dim, 7)


def test_each_series_scores_as_in_a_stream_of_its_own(scorer, detector, recordings):
    states = new_states(detector)
    parts = [(0, 130), (130, 1), (131, 69), (200, 200)]
    moments = [moment for part in parts for moment in scorer.advance(states, samples_of(recordings, *part))]
    assert [moment.time_s for moment in moments] == [STEP_S * number for number in range(400)]
    assert all(moment.keys == [] and moment.left_out["warming"] == 3 for moment in moments[:WARM_UP])
    for place, (name, rows) in enumerate(recordings.items()):
        scores, warming = StreamDetector(detector).scan(rows)
        assert not warming[WARM_UP:].any()
        expected = detector.severity_of_scores(scores)
        assert all(moment.keys[place] == (name,) for moment in moments[WARM_UP:])
        told = [moment.severity[place] for moment in moments[WARM_UP:]]
        np.testing.assert_allclose(told, expected[WARM_UP:], rtol=2e-4)
        reconstructed = detector.reconstruct(rows)[WARM_UP:]
        expectations = np.array([moment.expected[place] for moment in moments[WARM_UP:]])
        np.testing.assert_allclose(expectations, reconstructed, rtol=1e-3, atol=1e-3)


def test_a_restart_changes_no_score(scorer, detector, recordings, tmp_path):
    whole, broken = new_states(detector), new_states(detector)
    expected = list(scorer.advance(whole, samples_of(recordings, 0, 200)))
    for _ in scorer.advance(broken, samples_of(recordings, 0, 150)):
        pass
    save_states(broken, STEP_S, tmp_path / "states.npz")
    resumed = load_states(tmp_path / "states.npz", STEP_S)
    assert (resumed.last, resumed.model_sha256) == (149, "digest")
    for moment, other in zip(
        scorer.advance(resumed, samples_of(recordings, 150, 50)), expected[150:], strict=True
    ):
        assert moment.keys == other.keys
        np.testing.assert_array_equal(moment.severity, other.severity)


def test_an_anomaly_names_its_reasons_until_it_ends(scorer, detector, recordings):
    rows = {name: values.copy() for name, values in recordings.items()}
    rows["pump-1"][200:203, 4] += 20 * rows["pump-1"][:, 4].std()
    moments = list(scorer.advance(new_states(detector), samples_of(rows, 0, 400)))
    first = moments[200]
    np.testing.assert_array_equal(first.anomaly, [False, True, False])
    assert first.severity[1] > 1
    assert first.shares[1].argmax() == 4
    assert np.count_nonzero(first.shares[1]) <= 2
    assert 0 < first.shares[1].sum() <= 1.0001
    assert not first.shares[[0, 2]].any()
    ended = [moment.time_s for moment in moments if (("pump-1",), 4) in moment.ended_reasons]
    told = [moment.time_s for moment in moments if moment.shares.size and moment.shares[1, 4] > 0]
    assert 200 * STEP_S in told
    assert ended
    assert all(time_s - STEP_S in told and time_s not in told for time_s in ended)


def test_a_series_without_all_samples_is_left_out_and_goes_on_afterwards(scorer, detector, recordings):
    samples = samples_of(recordings, 0, 200)
    samples.values[1, 150:160, 3] = np.nan
    moments = list(scorer.advance(new_states(detector), samples))
    assert moments[150].keys == [("pump-0",), ("pump-2",)]
    assert moments[150].left_out["incomplete"] == 1
    assert moments[150].ended == [("pump-1",)]
    assert moments[151].ended == []
    # It is remembered across a short gap.
    assert moments[160].keys == [("pump-0",), ("pump-1",), ("pump-2",)]
    kept = np.delete(recordings["pump-1"], slice(150, 160), axis=0)[:190]
    expected = detector.severity_of_scores(StreamDetector(detector).scan(kept)[0])
    np.testing.assert_allclose(moments[199].severity[1], expected[189], rtol=2e-4)


def test_a_series_begins_anew_after_a_long_gap(scorer, detector, recordings):
    samples = samples_of(recordings, 0, 400)
    samples.values[1, 120 : 120 + WARM_UP] = np.nan
    moments = list(scorer.advance(new_states(detector), samples))
    assert ("pump-1",) not in moments[120 + WARM_UP].keys
    assert moments[120 + WARM_UP].left_out["warming"] == 1
    assert ("pump-1",) in moments[120 + 2 * WARM_UP].keys


def test_states_of_series_that_are_gone_are_forgotten(scorer, detector, recordings):
    states = new_states(detector)
    for _ in scorer.advance(states, samples_of(recordings, 0, 10)):
        pass
    only = {"pump-0": recordings["pump-0"]}
    for _ in scorer.advance(states, samples_of(only, 10, WARM_UP + 5)):
        pass
    assert states.keys == [("pump-0",)]
    assert len(states.states) == len(states.seen) == len(states.reasons) == 1


def test_more_series_than_allowed_are_left_out(detector, model, recordings):
    scorer = SeriesScorer(detector, replace(model, max_series=2))
    moments = list(scorer.advance(new_states(detector), samples_of(recordings, 0, 120)))
    assert moments[-1].keys == [("pump-0",), ("pump-1",)]
    assert moments[-1].left_out["too_many"] == 1


def test_a_moment_without_any_series_has_no_scores(scorer, detector, recordings):
    samples = samples_of(recordings, 0, 3)
    samples.values[:] = np.nan
    (moment, *_) = scorer.advance(new_states(detector), samples)
    assert moment.keys == []
    assert moment.left_out["incomplete"] == 3


def test_states_of_other_steps_are_not_taken(detector, tmp_path):
    save_states(new_states(detector), STEP_S, tmp_path / "states.npz")
    assert load_states(tmp_path / "states.npz", 2 * STEP_S) is None
    assert load_states(tmp_path / "none.npz", STEP_S) is None


def test_damaged_states_are_told(scorer, detector, recordings, tmp_path):
    path = tmp_path / "states.npz"
    states = new_states(detector)
    for _ in scorer.advance(states, samples_of(recordings, 0, 10)):
        pass
    save_states(states, STEP_S, path)
    content = path.read_bytes()
    for damaged in (b"", content[:100], content[: len(content) // 2], b"x" * 100):
        path.write_bytes(damaged)
        with pytest.raises(ArtifactError, match=r"states\.npz: damaged"):
            load_states(path, STEP_S)
