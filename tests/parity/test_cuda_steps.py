"""Generated CUDA kernels of graphs with every kind of step, run on the CPU.

Which steps share a loop, where threads wait and which values share memory depends on the graph; random ones
find the combinations that nobody thinks of. A missing barrier is a wrong number here, see
tests/cuda_on_cpu/kernel.h.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field

import numpy as np
import pytest
from onnx import helper
from onnx.reference import ReferenceEvaluator

from datasentinel import gpu
from tests.cuda_on_cpu.kernels import compile_for_cpu
from tests.networks import Network
from tests.parity.roundings import ROUNDINGS, reference_in
from tests.parity.test_fused_parity import Graph

pytestmark = pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler `c++` on the PATH")

DIM = 40
SEEDS = range(5)


@dataclass
class RandomGraph:
    """A graph of random steps on values of many widths. Every value stays within about one."""

    seed: int
    graph: Graph = field(default_factory=Graph)
    values: list[tuple[str, int]] = field(default_factory=lambda: [("input", DIM)])

    def build(self) -> bytes:
        self.random = np.random.default_rng(self.seed)
        g = self.graph
        for _ in range(18):
            self.step()
        unread = g.add("Concat", *(name for name, _ in self.values[-8:]), axis=1)
        width = sum(width for _, width in self.values[-8:])
        self.values.append((unread, width))
        # The output needs some steps that the score does not.
        out, _ = self.layer(unread, width, DIM)
        rest = g.add("Sub", g.add("Tanh", "input"), g.add("Sigmoid", out))
        name, _ = self.pick()
        total = g.reduce("ReduceMean", g.add("Abs", name), keepdims=1)
        squared = g.add("Mul", rest, rest)
        g.reduce("ReduceSum", g.add("Add", squared, total), keepdims=0, output="score")
        g.add("Mul", g.add("Tanh", out), g.add("Abs", "input"), output="output")
        return g.model(DIM, ["score", "output"])

    def pick(self, width: int | None = None) -> tuple[str, int]:
        fitting = [value for value in self.values if width is None or value[1] == width]
        return fitting[self.random.integers(len(fitting))]

    def vector(self, width: int) -> str:
        return self.graph.constant(self.random.uniform(-1, 1, width))

    def layer(self, name: str, width: int, outputs: int) -> tuple[str, int]:
        weights = self.random.normal(0, 1 / np.sqrt(width), (width, outputs))
        layer = self.graph.add("Gemm", name, self.graph.constant(weights), self.vector(outputs))
        return layer, outputs

    def step(self) -> None:
        g = self.graph
        kind = self.random.integers(9)
        name, width = self.pick()
        if kind == 0:
            operator = self.random.choice(["Tanh", "Abs", "Relu", "Sigmoid"])
            made = (g.add(str(operator), name), width)
        elif kind in (1, 2):
            one = [value for value in self.values if value[1] == 1]
            other = self.pick(width)[0] if kind == 1 or not one else one[self.random.integers(len(one))][0]
            operator = self.random.choice(["Add", "Sub", "Mul", "Max", "Min"])
            made = (g.add("Tanh", g.add(str(operator), name, other)), width)
        elif kind == 3:
            made = (g.add("Add", g.add("Mul", name, self.vector(width)), self.vector(width)), width)
        elif kind == 4:
            other, more = self.pick()
            made = (g.add("Concat", name, other, axis=1), width + more)
        elif kind == 5:
            count = int(self.random.choice([1, 24, DIM]))
            columns = g.constant(self.random.integers(0, width, count), np.int64)
            made = (g.add("Gather", name, columns, axis=1), count)
        elif kind == 6:
            operator = self.random.choice(["ReduceMean", "ReduceMax", "ReduceMin"])
            made = (g.reduce(str(operator), name, keepdims=1), 1)
        elif kind == 7:
            made = self.layer(name, width, int(self.random.choice([3, 24, DIM, 150])))
            if self.random.integers(2):
                made = (g.add("Tanh", made[0]), made[1])
        else:
            distances, count = self.layer(name, width, int(self.random.choice([DIM, 150, 300])))
            if self.random.integers(2):
                # Two that take the layer's columns, as in the default model.
                self.values.append((self.smallest(g.add("Mul", distances, self.vector(count))), 3))
            made = (self.smallest(distances), 3)
        self.values.append(made)

    def smallest(self, distances: str) -> str:
        g = self.graph
        smallest = f"nearest{len(g.nodes)}"
        inputs = [distances, g.constant([3], np.int64)]
        g.nodes.append(
            helper.make_node("TopK", inputs, [smallest, f"{smallest}_index"], largest=0, name=smallest)
        )
        return g.add("Tanh", smallest)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    models = [RandomGraph(seed).build() for seed in SEEDS]
    sources = [gpu.cuda_source(model, name="m") for model in models]
    assert not any(source.in_registers for source in sources)
    kernels = compile_for_cpu(sources, tmp_path_factory.mktemp("steps"))
    return list(zip(models, kernels, strict=True))


@pytest.mark.parametrize("seed", SEEDS)
def test_a_random_graph_means_what_onnx_says(compiled, seed):
    model, kernels = compiled[seed]
    rows = np.random.default_rng(seed).normal(0, 1, (141, DIM)).astype(np.float32)
    scores, output = ReferenceEvaluator(model).run(["score", "output"], {"input": rows})
    for name, kernel in kernels.items():
        count = 17 if "few" in name else len(rows)
        results = kernel(rows[:count], "s" if "scores" in name else "so", blocks=3)
        np.testing.assert_allclose(results["s"], scores[:count], rtol=2e-5, atol=1e-5, err_msg=name)
        if "scores" not in name:
            np.testing.assert_allclose(results["o"], output[:count], rtol=2e-5, atol=1e-5, err_msg=name)


# --------------------------------------------------------------------------------------- lower precision

# With much shared memory values stay in registers, with little they lie there and weights do not.
MEDIUM, ODD = [64, 128, 64, 16, 64, 128, 64], [33, 50, 20, 33]
LOW = {
    "medium": (MEDIUM, {"shared_bytes": 227 << 10}),
    "odd": (ODD, {"shared_bytes": 163 << 10}),
    "odd, little memory": (ODD, {"shared_bytes": 48 << 10}),
    "medium, wgmma": (MEDIUM, {"shared_bytes": 227 << 10, "wgmma": True}),
    "odd, wgmma": (ODD, {"shared_bytes": 163 << 10, "wgmma": True}),
    # A layer of more columns than a warpgroup has the sums of.
    "wide, wgmma": ([40, 150, 40], {"shared_bytes": 163 << 10, "wgmma": True}),
}


@pytest.fixture(scope="module")
def low(tmp_path_factory):
    cases = [(precision, name) for precision in ROUNDINGS for name in LOW]
    networks = {name: Network.random(dims) for name, (dims, _) in LOW.items()}
    sources = [
        gpu.cuda_source(networks[name].to_onnx(), name="m", precision=precision, **LOW[name][1])
        for precision, name in cases
    ]
    for source in sources:
        assert source.low_layers == source.layers > 0
    kernels = compile_for_cpu(sources, tmp_path_factory.mktemp("low"))
    return {
        (precision, name): (networks[name], kernel)
        for (precision, name), kernel in zip(cases, kernels, strict=True)
    }


@pytest.mark.parametrize("precision", ROUNDINGS)
@pytest.mark.parametrize("name", LOW)
def test_layers_in_lower_precision_are_rounded_and_nothing_else_is(low, precision, name):
    network, kernels = low[precision, name]
    random = np.random.default_rng(4)
    noise = random.normal(size=(150, network.input_dim))
    rows = (network.mean + 2 * network.scale * noise).astype(np.float32)
    expected = reference_in(ROUNDINGS[precision], network, rows)
    exact = network.reference(rows)[0]
    # The rounding is what is tested, so it has to show.
    assert np.median(np.abs(expected - exact) / exact) > 1e-5
    for which, kernel in kernels.items():
        scores = kernel(rows, "s", blocks=3)["s"]
        # Sums in another order may fall on the other side of a rounding.
        error = np.abs(scores - expected) / expected
        assert np.median(error) < 2e-6, which
        assert error.max() < 0.2 * np.abs(expected - exact).max() / exact.min(), which


@pytest.mark.parametrize("precision", ROUNDINGS)
@pytest.mark.parametrize("name", LOW)
def test_the_number_of_rows_makes_no_difference_in_lower_precision(low, precision, name):
    network, kernels = low[precision, name]
    noise = np.random.default_rng(5).normal(size=(70, network.input_dim))
    rows = network.mean + noise.astype(np.float32)
    few, bulk = kernels["few"](rows[:3]), kernels["bulk"](rows)
    np.testing.assert_array_equal(few["o"], bulk["o"][:3])
    # The squares of a row are added in another order.
    np.testing.assert_allclose(few["s"], bulk["s"][:3], rtol=1e-6)


@pytest.mark.parametrize("precision", ROUNDINGS)
def test_huge_values_score_high_in_lower_precision(low, precision):
    network, kernels = low[precision, "medium"]
    rows = np.zeros((2, 64), np.float32) + network.mean
    rows[1, 5] = 1e9
    normal, abnormal = kernels["bulk scores"](rows, "s")["s"]
    assert np.isfinite(abnormal)
    assert abnormal > 1e10 * normal


def single_columns() -> bytes:
    """A layer that is computed in low precision, and sums of a single column."""
    g = Graph()
    random = np.random.default_rng(6)
    weights = random.normal(0, 0.2, (24, 80))
    layer = g.add("Tanh", g.add("Gemm", "input", g.constant(weights), g.constant(random.normal(size=80))))
    mean = g.reduce("ReduceMean", layer, keepdims=1)
    g.reduce(
        "ReduceSum", g.add("Add", g.add("Mul", mean, mean), g.constant([1.0])), keepdims=0, output="score"
    )
    return g.model(24, ["score"])


def test_single_columns_are_reduced_once_in_lower_precision(tmp_path):
    model = single_columns()
    source = gpu.cuda_source(model, name="m", precision="fp16")
    assert not source.in_registers
    assert source.low_layers == 1
    (kernels,) = compile_for_cpu([source], tmp_path)
    rows = np.random.default_rng(7).normal(size=(40, 24)).astype(np.float32)
    (expected,) = ReferenceEvaluator(model).run(["score"], {"input": rows})
    for name in ("few", "bulk"):
        results = kernels[name](rows, "s", highest_normal=1.5)
        np.testing.assert_allclose(results["s"], expected, rtol=1e-3, err_msg=name)
        assert results["anomalies"].sum() == (results["s"] > 1.5).sum()


@pytest.mark.parametrize("name", LOW)
def test_the_first_value_that_is_not_finite_is_found_in_lower_precision(low, name):
    network, kernels = low["bf16", name]
    rows = np.tile(network.mean, (300, 1))
    rows[280, 1] = rows[140, network.input_dim - 1] = np.nan
    for which in ("few scores", "bulk scores"):
        place = np.full(1, 2**64 - 1, np.uint64)
        kernels[which](rows, "s", bad=place)
        assert place[0] == 141 * network.input_dim - 1


def test_distances_stay_in_float32():
    source = gpu.cuda_source(RandomGraph(0).build(), name="m", precision="bf16")
    assert 0 < source.low_layers < source.layers


def test_small_models_stay_in_float32():
    small = Network.random([8, 6, 3, 6, 8]).to_onnx()
    source = gpu.cuda_source(small, name="m", precision="bf16")
    assert source.low_layers == 0
    assert source.text == gpu.cuda_source(small, name="m").text


def test_a_precision_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="no precision 'int4'"):
        gpu.cuda_source(Network.random([8, 6, 8]).to_onnx(), name="m", precision="int4")
