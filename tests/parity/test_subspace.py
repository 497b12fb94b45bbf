"""The graph of the detector for recordings on every backend, against float64 arithmetic."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from datasentinel.artifact import Artifact
from datasentinel.detector import Detector
from datasentinel.export import build_artifact
from datasentinel.training import TrainingSettings, train
from tests.unit.training.test_recording import recording


@pytest.fixture(scope="module")
def trained():
    rows = recording(2000)
    result = train(rows, settings=TrainingSettings(model="subspace"))
    built = build_artifact(result, rows=rows)
    return result.model, Artifact(Path("model"), built.config, built.onnx)


@pytest.mark.parametrize("backend", ["onnxruntime", "fused"])
@pytest.mark.parametrize("count", [1, 7, 300])
def test_scores_reconstructions_and_contributions(trained, backend, count):
    model, artifact = trained
    detector = Detector(artifact, backend=backend)
    rows = recording(count, seed=count) * np.float32(1.1)
    scores, outputs = model.evaluate(rows.astype(np.float64))
    measured = detector.score(rows)
    np.testing.assert_allclose(measured, scores, rtol=1e-4, atol=1e-4 * np.median(scores))
    error = np.abs(detector.reconstruct(rows) - outputs) / (np.abs(outputs) + model.scaling.scale)
    assert error.max() < 1e-4
    contributions = detector.contributions(rows)
    assert (contributions >= 0).all()
    np.testing.assert_allclose(contributions.sum(axis=1), measured, rtol=1e-4)


@pytest.mark.parametrize("backend", ["onnxruntime", "fused"])
def test_the_broken_column_contributes_most(trained, backend):
    _, artifact = trained
    rows = recording(50, seed=8)
    rows[:, 8] += 3
    contributions = Detector(artifact, backend=backend).contributions(rows)
    assert (contributions.argmax(axis=1) == 8).all()


@pytest.mark.parametrize("backend", ["onnxruntime", "fused"])
def test_absurd_values_score_high_and_finite(trained, backend):
    model, artifact = trained
    rows = recording(3, seed=8)
    rows[0, 0], rows[1, 1], rows[2, 8] = 3e38, -3e38, 1e30
    scores = Detector(artifact, backend=backend).score(rows)
    assert np.isfinite(scores).all()
    assert (scores > 10 * np.median(model.score(recording(500)))).all()
