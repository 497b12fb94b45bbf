from __future__ import annotations

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from datasentinel.calibration import ScoreTable, calibrate, feature_histograms
from datasentinel.detector import Detector
from datasentinel.drift import critical_value
from datasentinel.histogram import Histogram, ks, psi
from datasentinel.serving.control.metrics import Metrics
from datasentinel.serving.data_plane import DataPlane
from datasentinel.serving.live_drift import LiveDrift
from tests.networks import Network, write_artifact

D = 5
NAMES = [f"f{i}" for i in range(D)]


def calibrated(folder, columns=D, names=()):
    network = Network.random([columns, 3, columns])
    plain = write_artifact(folder / "plain", network.to_onnx(), input_dim=columns, threshold=0.0)
    rows = rows_of(2000, seed=0, columns=columns)
    scores = Detector.load(plain, backend="onnxruntime").score(rows)
    calibration = calibrate(scores, method="conformal", target_fpr=0.01, rows=rows)
    artifact = write_artifact(
        folder / "m",
        network.to_onnx(),
        input_dim=columns,
        threshold=calibration.threshold,
        calibration=calibration.facts(),
        feature_names=names,
    )
    return Detector.load(artifact, backend="onnxruntime")


@pytest.fixture
def detector(tmp_path):
    return calibrated(tmp_path, names=NAMES)


def watched(detector):
    """Metrics of a server that counts the columns of one row of every call."""
    metrics = Metrics(DataPlane(detector))
    detector.scorer.observe(sample_interval_s=0)
    return metrics


def score_each(detector, rows):
    for row in rows:
        detector.score(row)


def rows_of(count, seed, scale=1.0, columns=D):
    return np.random.default_rng(seed).normal(0, scale, (count, columns)).astype(np.float32)


def samples(metrics):
    body, _ = metrics.render()
    return [s for family in text_string_to_metric_families(body.decode()) for s in family.samples]


def gauges(metrics):
    return {sample.name: sample.value for sample in samples(metrics)}


def by_feature(metrics, name):
    return {s.labels["feature"]: s.value for s in samples(metrics) if s.name == name}


def test_the_gauge_tells_drift_from_none(detector):
    plane = DataPlane(detector)
    metrics = Metrics(plane)
    assert gauges(metrics)["datasentinel_score_window_rows"] == 0
    detector.score(rows_of(499, seed=1))
    found = gauges(metrics)
    assert found["datasentinel_score_window_rows"] == 499
    assert not {"datasentinel_score_psi", "datasentinel_score_ks", "datasentinel_retrain"} & set(found)
    detector.score(rows_of(2501, seed=2))
    found = gauges(metrics)
    assert found["datasentinel_score_window_rows"] == 3000
    assert found["datasentinel_score_psi"] < 0.03
    assert found["datasentinel_retrain"] == 0
    detector.score(rows_of(3000, seed=3, scale=3.0))
    found = gauges(metrics)
    assert found["datasentinel_score_psi"] > 0.25
    assert found["datasentinel_score_ks"] > 0.2
    assert found["datasentinel_retrain"] == 1


def test_rows_from_before_anybody_looked_are_in_the_window(detector):
    metrics = Metrics(DataPlane(detector))
    detector.score(rows_of(1000, seed=1, scale=3.0))
    found = gauges(metrics)
    assert found["datasentinel_score_window_rows"] == 1000
    assert found["datasentinel_score_psi"] > 0.25


def test_a_drifted_column_is_told_by_name(detector):
    metrics = watched(detector)
    rows = rows_of(501, seed=1)
    rows[:, 2] += 1.0
    score_each(detector, rows[:499])
    assert gauges(metrics)["datasentinel_feature_window_rows"] == 499
    assert not by_feature(metrics, "datasentinel_feature_psi")
    score_each(detector, rows[499:])
    psis, distances = (by_feature(metrics, f"datasentinel_feature_{name}") for name in ("psi", "ks"))
    assert list(psis) == list(distances)
    assert {name for name, value in psis.items() if value >= 0.25} == {"f2"}
    assert max(psis, key=psis.get) == max(distances, key=distances.get) == "f2"
    assert gauges(metrics)["datasentinel_retrain"] == 1


def counted(detector, rows):
    columns = zip(rows.T, feature_histograms(detector.artifact.config), strict=True)
    return [Histogram.count(column, feature.edges).counts.tolist() for column, feature in columns]


def test_columns_are_counted_since_the_model_is_served(detector):
    score_each(detector, rows_of(3, seed=1))
    plane = DataPlane(detector)  # warms up, and observes from then on
    assert not np.concatenate(detector.scorer.feature_counts).any()
    detector.scorer.observe(sample_interval_s=0)
    rows = rows_of(100, seed=2)
    score_each(detector, rows)
    assert plane.served.find().feature_counts == counted(detector, rows)


def test_of_a_batch_any_row_is_counted_and_no_more_than_one_an_interval(detector):
    rows = rows_of(64, seed=2)
    chosen = set()
    before = counted(detector, rows[:0])
    detector.scorer.observe(sample_interval_s=0)
    for _ in range(200):
        detector.score(rows)
        after = detector.scorer.feature_counts
        new = [(np.array(b) - a).tolist() for a, b in zip(before, after, strict=True)]
        places = [place for place in range(64) if counted(detector, rows[place : place + 1]) == new]
        assert places
        chosen.add(places[0])
        before = after
    assert len(chosen) > 30
    detector.scorer.observe(sample_interval_s=3600.0)
    score_each(detector, rows)
    assert sum(detector.scorer.feature_counts[0]) <= 201


def test_of_many_columns_only_those_that_moved_most_are_told(tmp_path):
    detector = calibrated(tmp_path, columns=70)
    metrics = watched(detector)
    rows = rows_of(500, seed=1, columns=70)
    rows[:, [5, 69]] *= 4
    score_each(detector, rows)
    psis = by_feature(metrics, "datasentinel_feature_psi")
    assert len(psis) == 64
    assert {name for name, value in psis.items() if value >= 0.25} == {"column 5", "column 69"}


def test_columns_beyond_what_is_counted_leave_only_the_scores(tmp_path):
    detector = calibrated(tmp_path, columns=257)
    metrics = Metrics(DataPlane(detector))
    detector.score(rows_of(500, seed=1, columns=257))
    assert detector.scorer.feature_counts == []
    assert gauges(metrics)["datasentinel_feature_window_rows"] == 0
    assert "datasentinel_score_psi" in gauges(metrics)


def test_a_model_without_calibration_scores_has_no_gauge(tmp_path):
    folder = write_artifact(tmp_path, Network.random([D, 3, D]).to_onnx(), input_dim=D, threshold=1.0)
    metrics = Metrics(DataPlane(Detector.load(folder, backend="onnxruntime")))
    assert not any("_psi" in name or "_window" in name or "retrain" in name for name in gauges(metrics))


def test_names_that_do_not_tell_columns_apart_are_numbers(detector):
    features = feature_histograms(detector.artifact.config)
    counts = [feature.counts.tolist() for feature in features]
    drift = LiveDrift(features[0], features, ["a"] * D, read_counts=lambda: [counts[0], *counts])
    assert [shift.name for shift in drift.measure().features] == [f"column {i}" for i in range(D)]


def test_the_window_slides_and_remembers_little(detector):
    now, total = 0.0, np.zeros(10, np.int64)
    expected = ScoreTable.of_config(detector.artifact.config).histogram()
    drift = LiveDrift(expected, read_counts=lambda: [total.tolist()], window_s=60, clock=lambda: now)
    added = []
    for second in range(300):
        now = float(second)
        if second:
            counts = np.full(10, 100) if second < 200 else np.eye(10, dtype=int)[9] * 1000
            total = total + counts
            added.append(counts)
        shifts = drift.measure()
        if second >= 1:
            recent = np.sum(added[-60:], axis=0)
            assert shifts.score_rows == recent.sum()
            assert shifts.score.psi == pytest.approx(psi(expected.counts, recent))
            assert shifts.score.ks == pytest.approx(ks(expected.counts, recent))
            critical = critical_value(expected.rows, int(recent.sum()), comparisons=1)
            assert (shifts.score.state == "drifted") == (
                shifts.score.psi >= 0.25 and shifts.score.ks > critical
            )
            assert shifts.retrain == (shifts.score.state == "drifted")
    assert shifts.retrain is True
    assert len(drift._snapshots) <= 62
