"""The default detector's scores of rows that nearly coincide with prototypes, on the CPU and by the CUDA kernels.

Squared distances come out of |z|^2 - 2 z c + |c|^2, of which float32 leaves little where z is next to c. The
model says what it takes that to be, `Prototypes.rounding`; no engine may lose more. `fused` and `fused-cuda`
compute such distances again from z - c, and lose nothing that matters.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from datasentinel import gpu
from datasentinel.artifact import Artifact
from datasentinel.detector import Detector
from datasentinel.export import build_artifact
from datasentinel.training import TrainingSettings, train
from datasentinel.training.prototypes import Prototypes
from tests.cuda_on_cpu.kernels import compile_for_cpu
from tests.parity.fused_scorer import load

WIDTH = 12


def clustered(count: int) -> np.ndarray:
    """Rows of a few tight clusters, far from the middle for how close together they lie."""
    random = np.random.default_rng(0)
    middles = random.normal(size=(12, WIDTH)) * np.geomspace(1e-2, 1e2, WIDTH) + np.resize([0, 5, 300], WIDTH)
    rows = middles[random.integers(0, 12, count)]
    return (rows + 0.003 * middles.std(axis=0) * random.normal(size=rows.shape)).astype(np.float32)


@pytest.fixture(scope="module")
def trained():
    rows = clustered(600)
    result = train(rows, settings=TrainingSettings(model="ensemble", steps=10))
    built = build_artifact(result, rows=rows)
    return result.model, Artifact(Path("model"), built.config, built.onnx), rows


@pytest.fixture(scope="module")
def queries(trained) -> np.ndarray:
    """The training rows, which with so few are prototypes, and others close by."""
    _, _, rows = trained
    random = np.random.default_rng(1)
    near = [size * rows.std(axis=0) * random.normal(size=(100, WIDTH)) for size in (0, 1e-5, 1e-4, 1e-3)]
    return (np.tile(rows[:100], (4, 1)) + np.concatenate(near)).astype(np.float32)


def exact_scores(model, queries: np.ndarray, monkeypatch, moved: int) -> np.ndarray:
    """Return the scores in float64, every squared distance moved by `moved` times what rounding may take."""
    plain = Prototypes._mean_of_nearest

    def mean_of_nearest(self, squares, least):
        return plain(self, squares + moved * np.asarray(least), least)

    with monkeypatch.context() as patched:
        patched.setattr(Prototypes, "_mean_of_nearest", mean_of_nearest)
        return model.evaluate(queries.astype(np.float64))[0]


@pytest.fixture(scope="module")
def direct_scores(trained, queries) -> np.ndarray:
    """Scores in float64 whose distances come of differences; the expansion is off by 6e-3 even in float64."""

    def distances(self, rows):
        length = np.square(rows).sum(axis=1, keepdims=True)
        squares = np.stack([np.square(row - self.centres.astype(np.float64)).sum(axis=1) for row in rows])
        scales = zip(self.gains.astype(np.float64), self.rounding, strict=True)
        return np.stack([self._mean_of_nearest(squares * gain, least * length) for gain, least in scales], 1)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Prototypes, "distances", distances)
        return trained[0].evaluate(queries.astype(np.float64))[0]


def check(scores: np.ndarray, trained, queries: np.ndarray, monkeypatch) -> None:
    least, most = (exact_scores(trained[0], queries, monkeypatch, moved) for moved in (-1, 1))
    assert (scores >= least * (1 - 1e-5)).all()
    assert (scores <= most * (1 + 1e-5)).all()


def test_the_rows_are_near_prototypes(trained, queries, monkeypatch):
    """Otherwise the other tests would show nothing: here the whole resolution is some per cent of a score."""
    least, most = (exact_scores(trained[0], queries, monkeypatch, moved) for moved in (-1, 1))
    assert np.median(most / least) > 1.01


@pytest.mark.parametrize("backend", ["fused", "onnxruntime"])
def test_backends_lose_no_more_than_the_model_says(trained, queries, monkeypatch, backend):
    check(Detector(trained[1], backend=backend).score(queries), trained, queries, monkeypatch)


def test_fused_measures_them_by_differences(isa, trained, queries, direct_scores):
    scores = load(trained[1].onnx, dim=WIDTH).score(queries)
    np.testing.assert_allclose(scores, direct_scores, rtol=2e-4)


@pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler `c++` on the PATH")
def test_the_cuda_kernels_measure_them_by_differences(trained, queries, direct_scores, tmp_path):
    (kernels,) = compile_for_cpu([gpu.cuda_source(trained[1].onnx, name="ensemble")], tmp_path)
    for which in ("few scores", "bulk scores"):
        np.testing.assert_allclose(kernels[which](queries, "s")["s"], direct_scores, rtol=2e-4)
