from __future__ import annotations

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from datasentinel.calibration import ScoreTable, calibrate
from datasentinel.detector import Detector
from datasentinel.histogram import psi
from datasentinel.serving.data_plane import DataPlane
from datasentinel.serving.metrics import Metrics
from datasentinel.serving.score_drift import ScoreDrift
from tests.networks import Network, write_artifact

D = 5


@pytest.fixture
def detector(tmp_path):
    network = Network.random([D, 3, D])
    plain = write_artifact(tmp_path / "plain", network.to_onnx(), input_dim=D, threshold=0.0)
    scores = Detector.load(plain, backend="onnxruntime").score(rows_of(2000, seed=0))
    calibration = calibrate(scores, method="conformal", target_fpr=0.01)
    folder = write_artifact(
        tmp_path / "m",
        network.to_onnx(),
        input_dim=D,
        threshold=calibration.threshold,
        calibration=calibration.facts(),
    )
    return Detector.load(folder, backend="onnxruntime")


def rows_of(count, seed, scale=1.0):
    return np.random.default_rng(seed).normal(0, scale, (count, D)).astype(np.float32)


def gauges(metrics):
    body, _ = metrics.render()
    families = text_string_to_metric_families(body.decode())
    return {sample.name: sample.value for family in families for sample in family.samples}


def test_the_gauge_tells_drift_from_none(detector):
    plane = DataPlane(detector)
    metrics = Metrics(plane)
    assert gauges(metrics)["datasentinel_score_window_rows"] == 0
    detector.score(rows_of(499, seed=1))
    found = gauges(metrics)
    assert found["datasentinel_score_window_rows"] == 499
    assert "datasentinel_score_psi" not in found
    detector.score(rows_of(2501, seed=2))
    found = gauges(metrics)
    assert found["datasentinel_score_window_rows"] == 3000
    assert found["datasentinel_score_psi"] < 0.03
    detector.score(rows_of(3000, seed=3, scale=3.0))
    assert gauges(metrics)["datasentinel_score_psi"] > 0.25


def test_rows_from_before_anybody_looked_are_in_the_window(detector):
    metrics = Metrics(DataPlane(detector))
    detector.score(rows_of(1000, seed=1, scale=3.0))
    found = gauges(metrics)
    assert found["datasentinel_score_window_rows"] == 1000
    assert found["datasentinel_score_psi"] > 0.25


def test_a_model_without_calibration_scores_has_no_gauge(tmp_path):
    folder = write_artifact(tmp_path, Network.random([D, 3, D]).to_onnx(), input_dim=D, threshold=1.0)
    metrics = Metrics(DataPlane(Detector.load(folder, backend="onnxruntime")))
    assert not any("score_psi" in name or "score_window" in name for name in gauges(metrics))


def test_the_window_slides_and_remembers_little(detector):
    now, total = 0.0, np.zeros(10, np.int64)
    expected = ScoreTable.of_config(detector.artifact.config).histogram()
    read_counts = lambda: total.tolist()  # noqa: E731, PLW0108 - `total` is replaced below
    drift = ScoreDrift(expected, read_counts, window_s=60, clock=lambda: now)
    added = []
    for second in range(300):
        now = float(second)
        if second:
            counts = np.full(10, 100) if second < 200 else np.eye(10, dtype=int)[9] * 1000
            total = total + counts
            added.append(counts)
        rows, index = drift.measure()
        if second >= 1:
            recent = np.sum(added[-60:], axis=0)
            assert rows == recent.sum()
            assert index == pytest.approx(psi(expected.counts, recent))
    assert len(drift._snapshots) <= 62
