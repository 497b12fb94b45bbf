from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from datasentinel.artifact import Artifact, load_artifact
from datasentinel.calendar_time import DAY_S, WEEK_S
from datasentinel.detector import Detector
from datasentinel.errors import DataError, InvalidInputError, UnsupportedModelError
from datasentinel.estimator import AutoencoderDetector
from datasentinel.export import build_artifact
from datasentinel.streams import StreamDetector
from datasentinel.training import TrainingSettings, train
from datasentinel.training.season import deseason_apart, fit_season
from tests.seasons import A_DAY, telemetry

NIGHT = slice(3 * A_DAY + 2 * 12, 3 * A_DAY + 2 * 12 + 6)  # Thursday, 02:00 to 02:30.


def with_time(rows, seconds):
    return np.column_stack([rows, seconds]).astype(np.float32)


@pytest.fixture(scope="module", params=["context", "subspace"])
def trained(request):
    rows = with_time(*telemetry(28))
    result = train(rows, settings=TrainingSettings(model=request.param, season="auto"))
    built = build_artifact(result, rows=rows, time_zone="Europe/Berlin")
    return result, Artifact(Path(), built.config, built.onnx)


@pytest.fixture(scope="module")
def detector(trained):
    return Detector(trained[1], backend="fused")


def test_a_week_of_usual_days_and_nights_keeps_to_the_target(detector):
    shares = [detector.predict(with_time(*telemetry(7, seed=seed))).mean() for seed in range(1, 7)]
    assert np.mean(shares) <= 0.015  # 1 % and what six weeks leave to chance.
    nights = [detector.predict(with_time(*telemetry(7, seed=seed)))[NIGHT].mean() for seed in range(1, 7)]
    assert np.mean(nights) <= 0.06


def test_a_backup_that_is_missing_and_one_at_noon_are_anomalies(detector):
    week = with_time(*telemetry(7, seed=8))
    missing, at_noon = week.copy(), week.copy()
    missing[NIGHT, 2] = week[A_DAY // 2 : A_DAY // 2 + 6, 2]
    noon = slice(2 * A_DAY + A_DAY // 2, 2 * A_DAY + A_DAY // 2 + 6)
    at_noon[noon, 2] = week[NIGHT, 2]
    assert detector.predict(missing)[NIGHT].sum() >= 4
    assert detector.predict(at_noon)[noon].sum() >= 4


def test_a_load_that_is_usual_by_day_is_none_at_night_and_its_reason_is_told(detector):
    week = with_time(*telemetry(7, seed=9))
    at_four = slice(3 * A_DAY + 4 * 12, 3 * A_DAY + 4 * 12 + 6)
    at_two = slice(3 * A_DAY + 14 * 12, 3 * A_DAY + 14 * 12 + 6)
    week[at_four, 0] = week[at_two, 0]
    assert detector.predict(week)[at_four].sum() >= 4
    reasons = {reason.feature: reason for reason in detector.explain(week, top=6)[at_four.start]}
    assert reasons["x0"].expected < reasons["x0"].value
    assert reasons["x5"].contribution == 0  # The time is no reason.


def test_backends_agree_and_what_is_exported_is_what_was_trained(trained, detector):
    result, artifact = trained
    rows = with_time(*telemetry(8, seed=4, start_day=5))
    rows[:, -1] = (rows[:, -1] + np.random.default_rng(0).integers(0, 300, len(rows))) % WEEK_S
    expected = result.model.score(rows)
    tolerance = {"rtol": 2e-3, "atol": 1e-3 * float(np.median(expected))}
    np.testing.assert_allclose(detector.score(rows), expected, **tolerance)
    baseline = Detector(artifact, backend="onnxruntime")
    np.testing.assert_allclose(detector.score(rows), baseline.score(rows), **tolerance)
    np.testing.assert_allclose(detector.reconstruct(rows)[:, -1], rows[:, -1])
    assert artifact.config.calendar == {"time_zone": "Europe/Berlin"}
    assert artifact.config.input_dim == 6


def test_streams_score_as_the_recording_does(trained, detector):
    if not trained[1].config.state:
        with pytest.raises(UnsupportedModelError):
            StreamDetector(detector)
        return
    rows = with_time(*telemetry(2, seed=4))
    streams = StreamDetector(detector)
    scores = streams.update_many(np.repeat(rows, 2, axis=0), ["a", "b"] * len(rows))[0]
    np.testing.assert_allclose(scores[::2], detector.score(rows), rtol=1e-4)


def test_the_week_is_chosen_where_its_days_differ():
    for weekend, period in ((0.5, WEEK_S), (1.0, DAY_S)):
        season = fit_season(*telemetry(28, weekend=weekend), "auto")
        assert season.period_s == period
        assert season.seasonal.tolist() == [True, True, True, True, False]
    assert fit_season(*telemetry(10), "auto").period_s == DAY_S


def test_baselines_are_what_columns_are_at_that_time():
    rows, seconds = telemetry(28)
    season = fit_season(rows, seconds, "week")
    left = season.apply(rows.astype(np.float64), seconds)
    apart = deseason_apart(rows, seconds, season)
    for deviations in (left, apart):
        assert deviations[:, 2].std() == pytest.approx(10, rel=0.2)
        assert deviations[:, 0].std() == pytest.approx(2, rel=0.3)
    assert apart[:, 0].std() > left[:, 0].std()  # Which has seen the rows that it is taken from.
    np.testing.assert_allclose(season.invert(left, seconds), rows, rtol=1e-6)
    np.testing.assert_array_equal(season.apply(rows, seconds)[:, 4], rows[:, 4])


@pytest.mark.parametrize(
    ("days", "kind", "message"),
    [(2, "auto", "2 days: too short a history for a season, 3 days"), (15, "week", "21 days are needed")],
)
def test_too_short_a_history_says_so(days, kind, message):
    with pytest.raises(DataError, match=message):
        fit_season(*telemetry(days), kind)


def test_what_does_not_repeat_or_is_in_no_order_is_refused():
    rows, seconds = telemetry(10)
    with pytest.raises(DataError, match="no column repeats"):
        fit_season(rows[:, 4:], seconds, "auto")
    mixed = np.random.default_rng(0).permutation(len(rows))
    with pytest.raises(DataError, match="order of time"):
        fit_season(rows[mixed], seconds[mixed], "day")


def test_the_estimator_learns_a_season(tmp_path):
    rows = with_time(*telemetry(10))
    estimator = AutoencoderDetector(model="subspace", season="day", time_zone="Asia/Tokyo").fit(rows)
    missing = with_time(*telemetry(4, seed=2))
    missing[NIGHT, 2] = 100
    assert (estimator.predict(missing)[NIGHT] == -1).all()
    config = load_artifact(estimator.save(tmp_path)).config
    assert config.time_zone == "Asia/Tokyo"
    assert config.training["season"]["period_s"] == DAY_S


def test_a_last_column_that_is_no_time_is_refused():
    rows, seconds = telemetry(10)
    for wrong in (with_time(rows, seconds + WEEK_S), seconds[:, np.newaxis]):
        with pytest.raises(InvalidInputError, match="second of the week"):
            train(wrong, settings=TrainingSettings(model="subspace", season="day"))
