"""The graph of the detector with memory on every backend, against float64 arithmetic."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from datasentinel.artifact import Artifact
from datasentinel.detector import Detector
from datasentinel.export import build_artifact
from datasentinel.training import context, stability
from datasentinel.training.context import ContextModel
from datasentinel.training.pipeline import train
from datasentinel.training.settings import TrainingSettings
from tests.recordings import oscillations

BACKENDS = ["onnxruntime", "fused"]


def train_with(monkeypatch, as_steady, rows):
    """Train on the views whose spread is at most `as_steady` times the least: all of them for a large one."""
    monkeypatch.setattr(stability, "_AS_STEADY", as_steady)
    result = train(rows, settings=TrainingSettings(model="context"))
    built = build_artifact(result, rows=rows)
    return result.model, Artifact(Path("model"), built.config, built.onnx)


@pytest.fixture(scope="module", params=["all views", "long context"])
def trained(request):
    with pytest.MonkeyPatch.context() as patch:
        if request.param != "all views":
            patch.setattr(context, "_CONTEXTS", {"long": context.LONG_CONTEXT})
            patch.setattr(context, "can_span", lambda rows: False)
        model, artifact = train_with(patch, 100.0, oscillations(3000))
    assert isinstance(model, ContextModel)
    assert model.parts == (3 if request.param == "all views" else 1)
    return model, artifact


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_state_does_not_drift_over_ten_thousand_rows(trained, backend):
    model, artifact = trained
    rows = oscillations(10_000, seed=3)
    rows[4000:4100, 2] *= 3  # and something to remember
    scores, outputs = model.evaluate(rows)
    detector = Detector(artifact, backend=backend)
    measured = detector.score(rows)
    np.testing.assert_allclose(measured, scores, rtol=1e-4, atol=1e-4 * np.median(scores))
    error = np.abs(detector.reconstruct(rows) - outputs) / (np.abs(outputs) + model.scaling.scale)
    assert error.max() < 1e-4


@pytest.mark.parametrize("backend", BACKENDS)
def test_contributions_add_up_to_the_score_and_name_the_column(trained, backend):
    model, artifact = trained
    rows = oscillations(400, seed=4)
    rows[300:320, 1] += 5 * rows[:, 1].std()
    detector = Detector(artifact, backend=backend)
    contributions = detector.contributions(rows)
    np.testing.assert_allclose(contributions.sum(axis=1), detector.score(rows), rtol=1e-4)
    np.testing.assert_allclose(contributions, model.contributions(rows), rtol=2e-3, atol=1e-3)
    assert (contributions[301:310].argmax(axis=1) == 1).all()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("streams", [1, 5, 33, 64])
def test_streams_side_by_side_are_each_scored_in_their_own_past(trained, backend, streams):
    _, artifact = trained
    scorer = Detector(artifact, backend=backend).scorer
    recordings = [oscillations(40, seed=seed) for seed in range(streams)]
    alone = []
    for rows in recordings:
        scores, state = np.empty(len(rows), np.float32), np.zeros((1, scorer.state_dim), np.float32)
        scorer.scan(rows, state, scores)
        alone.append((scores, state[0]))
    states = np.zeros((streams, scorer.state_dim), np.float32)
    for turn in range(40):
        scores = np.empty(streams, np.float32)
        scorer.step(np.stack([rows[turn] for rows in recordings]), states, scores)
        np.testing.assert_allclose(scores, [s[turn] for s, _ in alone], rtol=2e-4, atol=1e-5)
    np.testing.assert_allclose(states, np.stack([state for _, state in alone]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_score_does_not_depend_on_what_comes_after(trained, backend):
    _, artifact = trained
    detector = Detector(artifact, backend=backend)
    rows = oscillations(500, seed=5)
    rows[300:] *= 7
    np.testing.assert_array_equal(detector.score(rows)[:300], detector.score(rows[:300]))


@pytest.mark.parametrize("backend", BACKENDS)
def test_absurd_values_score_high_and_finite_and_are_forgotten(trained, backend):
    model, artifact = trained
    rows = oscillations(2000, seed=6)
    rows[200, 0], rows[201, 1], rows[202, 6] = 3e38, -3e38, 1e30
    scores = Detector(artifact, backend=backend).score(rows)
    usual = np.median(model.score(oscillations(500)))
    assert np.isfinite(scores).all()
    assert (scores[200:203] > 10 * usual).all()
    assert np.median(scores[-100:]) < 3 * usual


@pytest.mark.parametrize("backend", ["fused-cuda", "tensorrt"])
def test_a_backend_without_memory_refuses_by_name(trained, backend):
    from datasentinel.errors import BackendUnavailableError, UnsupportedModelError

    with pytest.raises((UnsupportedModelError, BackendUnavailableError)):
        Detector(trained[1], backend=backend)
