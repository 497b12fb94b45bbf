"""Squared distances to near points, which |z|^2 - 2 z c + |c|^2 leaves little of in float32, beside float64."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from datasentinel import gpu
from tests.cuda_on_cpu.kernels import compile_for_cpu
from tests.parity.fused_scorer import load
from tests.parity.test_batch_invariance import assert_same_in_every_batch
from tests.parity.test_fused_parity import Graph

SPREAD = 0.01


class Distances:
    """A model of points in four tight clusters far from the origin, and the rows around them.

    The score is the sum of the `taken` smallest squares, on each of so many `scales`.
    """

    def __init__(self, width: int, points: int, *, taken: int, scales: int = 1, added: float = 0.0) -> None:
        random = np.random.default_rng([width, points])
        middles = 5 + random.normal(size=(4, width))
        centres = middles[np.arange(points) % 4] + SPREAD * random.normal(size=(points, width))
        self.gains = random.uniform(0.5, 4, size=points).astype(np.float32)
        self.ratios = random.uniform(0.5, 2, size=(scales - 1, points)).astype(np.float32)
        self.weight = (np.vstack([-2 * centres.T, np.ones(points)]) * self.gains).astype(np.float32)
        self.centres = (self.weight[:-1].astype(np.float64) / (-2 * self.gains)).T
        self.taken, self.added, self.width = taken, added, width

    def onnx(self) -> bytes:
        g = Graph()
        joined = g.add("Concat", "input", g.reduce("ReduceSumSquare", "input", keepdims=1), axis=1)
        bias = (np.square(self.centres).sum(axis=1) + self.added) * self.gains
        squares = g.add("Gemm", joined, g.constant(self.weight), g.constant(bias))
        scaled = [squares, *(g.add("Mul", squares, g.constant(ratio[None])) for ratio in self.ratios)]
        parts = g.add("Concat", *(self._take(g, values) for values in scaled), axis=1)
        g.reduce("ReduceSum", parts, keepdims=0, output="score")
        return g.model(self.width, ["score"])

    def _take(self, g: Graph, values: str) -> str:
        if self.taken == 1:
            return g.reduce("ReduceMin", values, keepdims=1)
        nearest = g.add("TopK", values, g.constant([self.taken], np.int64), axis=1, largest=0, sorted=0)
        g.nodes[-1].output.append(f"{nearest}_indices")
        return nearest

    def rows(self, count: int, distance: float) -> np.ndarray:
        """Rows up to three times so far, in a column, from one of the points; each fourth is that point."""
        random = np.random.default_rng(count)
        near = self.centres[random.integers(0, len(self.centres), count)]
        off = distance * (np.arange(count) % 4)[:, None] * random.normal(size=near.shape)
        return (near + off).astype(np.float32)

    def scores(self, rows: np.ndarray) -> np.ndarray:
        differences = rows.astype(np.float64)[:, None] - self.centres
        squares = (np.square(differences).sum(axis=2) + self.added) * self.gains
        scaled = [squares, *(squares * ratio for ratio in self.ratios)]
        return sum(np.sort(values, axis=1)[:, : self.taken].sum(axis=1) for values in scaled)

    def check(self, scores: np.ndarray, rows: np.ndarray, rtol: float = 1e-3) -> None:
        """What rounds off a point's own coordinates is allowed where a row is that point."""
        np.testing.assert_allclose(scores, self.scores(rows), rtol=rtol, atol=1e-11 * self.width)


def near_and_far(model: Distances) -> np.ndarray:
    return np.concatenate([model.rows(90, 0.005), model.rows(60, 0.1), 3 * model.rows(50, 1)])


# Widths beside whole vectors, and one of more inputs than a block of partial sums has; points that fill
# several parts of a layer.
@pytest.mark.parametrize("taken", [1, 5, 12])
@pytest.mark.parametrize(("width", "points", "scales"), [(2, 17, 1), (13, 700, 2), (300, 40, 2)])
def test_fused(isa, width, points, scales, taken):
    model = Distances(width, points, taken=taken, scales=scales)
    rows = near_and_far(model)
    model.check(load(model.onnx(), dim=width).score(rows), rows)
    assert_same_in_every_batch(model.onnx(), rows, (1, 2, 7, 33, 150))


def test_what_is_more_than_a_distance_is_left_alone():
    """Squares that begin at eps, say, may not begin at 0."""
    model = Distances(13, 40, taken=5, added=0.02)
    rows = model.rows(50, 0.001)
    model.check(load(model.onnx(), dim=13).score(rows), rows, rtol=2e-2)


@pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler `c++` on the PATH")
def test_cuda_kernels(tmp_path):
    models = [
        Distances(13, 300, taken=5, scales=2),
        Distances(4, 12, taken=5),  # in registers
    ]
    compiled = compile_for_cpu([gpu.cuda_source(model.onnx(), name="m") for model in models], tmp_path)
    for model, kernels in zip(models, compiled, strict=True):
        rows = near_and_far(model)
        for kernel in kernels.values():
            model.check(kernel(rows, "s")["s"], rows)
