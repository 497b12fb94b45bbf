"""What the page for people is told of the rows scored last."""

from __future__ import annotations

import json

import numpy as np

from datasentinel.detector import Detector
from datasentinel.serving.control.live import LiveView
from datasentinel.serving.data_plane import DataPlane
from datasentinel.serving.settings import Settings
from tests.networks import Network, write_artifact
from tests.unit.serving.test_live_drift import NAMES, calibrated, rows_of


def model_of(plane):
    """Return what an event says of the only model."""
    event = LiveView(plane).event("after=0").decode()
    (line,) = (line for line in event.splitlines() if line.startswith("data: "))
    (model,) = json.loads(line.removeprefix("data: "))["models"]
    return model


def test_rows_come_with_p_values_reasons_and_drift(tmp_path):
    detector = calibrated(tmp_path, names=NAMES)
    plane = DataPlane(detector, settings=Settings(page=True))
    for row in rows_of(20, seed=1):
        detector.score(row)
    far = rows_of(1, seed=2) * 1000
    score = detector.score(far)
    model = model_of(plane)
    assert model["rows"] == 21
    last = model["samples"][-1]
    assert last["anomaly"]
    np.testing.assert_allclose(last["score"], score[0])
    np.testing.assert_allclose(last["p_value"], detector.p_values(far)[0])
    assert all(0 < sample["p_value"] <= 1 for sample in model["samples"])
    assert model["drift"]["rows"] == 21
    assert model["drift"]["retrain"] is None


def test_a_model_that_cannot_say_why_has_no_reasons(tmp_path):
    onnx = Network.random([4, 2, 4]).to_onnx(with_output=False)
    detector = Detector.load(
        write_artifact(tmp_path, onnx, input_dim=4, threshold=-1.0), backend="onnxruntime"
    )
    plane = DataPlane(detector, settings=Settings(page=True))
    detector.score(np.ones((1, 4), np.float32))
    model = model_of(plane)
    assert model["samples"][0]["reasons"] == []
    assert model["drift"] is None
