"""The fused backend against NumPy in float64: random networks, every instruction set of this machine."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from datasentinel.errors import UnsupportedModelError
from tests.networks import Network
from tests.parity.fused_scorer import load

if TYPE_CHECKING:
    from collections.abc import Callable

FLOAT32_MAX = float(np.finfo(np.float32).max)
Array = np.ndarray


# --- Activations: an ONNX spelling and a NumPy meaning that keeps its input's precision ---------------------


def _sigmoid(x: Array) -> Array:
    e = np.exp(-np.abs(x))
    return np.where(x < 0, e, 1) / (1 + e)


def _softplus(x: Array) -> Array:
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


def _phi(x: Array) -> Array:
    return np.vectorize(lambda v: 0.5 * math.erfc(-v / math.sqrt(2)), otypes=[x.dtype])(x)


SELU_ALPHA, SELU_GAMMA = 1.67326319217681884765625, 1.05070102214813232421875

MEANINGS: dict[str, Callable[[Array], Array]] = {
    "Identity": lambda x: x,
    "Relu": lambda x: np.maximum(x, 0),
    "LeakyRelu": lambda x: np.where(x < 0, x * x.dtype.type(np.float32(0.125)), x),
    "Elu": lambda x: np.where(x < 0, x.dtype.type(0.75) * np.expm1(np.minimum(x, 0)), x),
    "Selu": lambda x: (
        x.dtype.type(SELU_GAMMA) * np.where(x < 0, x.dtype.type(SELU_ALPHA) * np.expm1(np.minimum(x, 0)), x)
    ),
    "Gelu": lambda x: x * _phi(x),
    "GeluTanh": lambda x: (
        x * _sigmoid(x.dtype.type(2 * math.sqrt(2 / math.pi)) * (x + x.dtype.type(0.044715) * x**3))
    ),
    "GeluErf": lambda x: x * _phi(x),
    "Silu": lambda x: x * _sigmoid(x),
    "Mish": lambda x: x * np.tanh(_softplus(x)),
    "Tanh": np.tanh,
    "Sigmoid": _sigmoid,
    "HardSigmoid": lambda x: np.clip(x.dtype.type(0.25) * x + x.dtype.type(0.5), 0, 1),
    "HardSwish": lambda x: x * np.clip(x / 6 + x.dtype.type(0.5), 0, 1),
    "Softplus": _softplus,
    "Softsign": lambda x: x / (1 + np.abs(x)),
    "Clip": lambda x: np.clip(x, -1, 2),
}


@dataclass
class Graph:
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, Array] = field(default_factory=dict)

    def constant(self, value: Array | float, dtype: type = np.float32) -> str:
        name = f"c{len(self.constants)}"
        self.constants[name] = np.asarray(value, dtype)
        return name

    def add(self, op: str, *inputs: str, output: str | None = None, **attributes: object) -> str:
        output = output or f"v{len(self.nodes)}"
        self.nodes.append(
            helper.make_node(op, list(inputs), [output], name=f"{op}_{len(self.nodes)}", **attributes)
        )
        return output

    def activate(self, name: str, x: str) -> str:
        match name:
            case "LeakyRelu":
                return self.add(name, x, alpha=0.125)
            case "Elu":
                return self.add(name, x, alpha=0.75)
            case "HardSigmoid":
                return self.add(name, x, alpha=0.25, beta=0.5)
            case "GeluTanh":
                return self.add("Gelu", x, approximate="tanh")
            case "GeluErf":
                erf = self.add("Erf", self.add("Div", x, self.constant(math.sqrt(2))))
                return self.add(
                    "Mul", self.add("Mul", x, self.add("Add", erf, self.constant(1))), self.constant(0.5)
                )
            case "Silu":
                return self.add("Mul", x, self.add("Sigmoid", x))
            case "Clip":
                return self.add(name, x, self.constant(-1), self.constant(2))
            case _:
                return self.add(name, x)

    def reduce(self, op: str, x: str, **attributes: object) -> str:
        return self.add(op, x, self.constant([1], np.int64), **attributes)

    def model(self, dim: int, outputs: list[str]) -> bytes:
        shapes = {"score": ["batch"], "output": ["batch", dim]}
        graph = helper.make_graph(
            self.nodes,
            "network",
            [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", dim])],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, shapes[name]) for name in outputs],
            [numpy_helper.from_array(value, name) for name, value in self.constants.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
        onnx.checker.check_model(model, full_check=True)
        return model.SerializeToString()


@dataclass(frozen=True)
class Chain:
    """A random network with one of several score heads."""

    widths: tuple[int, ...]
    activations: tuple[str, ...]
    head: str  # raw, standardised, weighted, whitened, sum or none
    matmul: bool
    scale: float
    seed: int

    def parameters(self) -> tuple[Array, Array, list[Array], list[Array], Array]:
        rng = np.random.default_rng(self.seed)
        dim = self.widths[0]
        layers = list(zip(self.widths, (*self.widths[1:], dim), strict=True))
        return (
            (self.scale * rng.normal(size=dim)).astype(np.float32),
            (self.scale * rng.uniform(0.5, 2, size=dim)).astype(np.float32),
            [(rng.normal(size=shape) / math.sqrt(shape[0])).astype(np.float32) for shape in layers],
            [rng.normal(0, 0.1, size=shape[1]).astype(np.float32) for shape in layers],
            (rng.normal(size=(dim, dim)) / math.sqrt(dim)).astype(np.float32),
        )

    def to_onnx(self) -> bytes:
        mean, deviation, weights, biases, whitening = self.parameters()
        graph = Graph()
        mean_name, deviation_name = graph.constant(mean), graph.constant(deviation)
        z = graph.add("Div", graph.add("Sub", "input", mean_name), deviation_name)
        h = z
        for i, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
            if self.matmul:
                h = graph.add("Add", graph.add("MatMul", h, graph.constant(weight)), graph.constant(bias))
            else:
                h = graph.add("Gemm", h, graph.constant(weight.T), graph.constant(bias), transB=1)
            if i < len(self.activations):
                h = graph.activate(self.activations[i], h)
        graph.add("Add", graph.add("Mul", h, deviation_name), mean_name, output="output")
        if self.head == "none":
            return graph.model(self.widths[0], ["output"])
        residual = graph.add("Sub", "input", "output") if self.head == "raw" else graph.add("Sub", h, z)
        if self.head == "whitened":
            residual = graph.add("MatMul", residual, graph.constant(whitening))
        squares = graph.add("Pow", residual, graph.constant(2))
        if self.head == "weighted":
            squares = graph.add("Mul", squares, graph.constant(np.abs(whitening[0])))
        score = graph.reduce("ReduceSum" if self.head == "sum" else "ReduceMean", squares, keepdims=0)
        graph.add("Identity", score, output="score")
        return graph.model(self.widths[0], ["score", "output"])

    def evaluate(self, x: Array, dtype: type) -> tuple[Array, Array]:
        """Scores and outputs, all arithmetic in `dtype`."""
        mean, deviation, weights, biases, whitening = self.parameters()
        z = (x.astype(dtype) - mean.astype(dtype)) / deviation.astype(dtype)
        h = z
        for i, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
            h = h @ weight.astype(dtype) + bias.astype(dtype)
            if i < len(self.activations):
                h = MEANINGS[self.activations[i]](h)
        output = h * deviation.astype(dtype) + mean.astype(dtype)
        residual = x.astype(dtype) - output if self.head in {"raw", "none"} else h - z
        if self.head == "whitened":
            residual = residual @ whitening.astype(dtype)
        squares = residual**2
        if self.head == "weighted":
            squares = squares * np.abs(whitening[0]).astype(dtype)
        score = squares.sum(axis=1) if self.head == "sum" else squares.mean(axis=1)
        return score, output


def assert_close(got: Array, exact: Array, plain: Array, relative: float) -> None:
    """Within `relative`, or near what plain float32 gives where the network amplifies rounding."""
    allowed = relative * np.abs(exact) + 4 * np.max(np.abs(plain - exact)) + 1e-37
    worst = int(np.argmax(np.abs(got - exact) / allowed))
    assert np.all(np.abs(got - exact) <= allowed), (got.flat[worst], exact.flat[worst], plain.flat[worst])


widths = st.lists(
    st.one_of(st.integers(1, 40), st.sampled_from([63, 64, 65, 127, 128, 200, 257, 511, 700])),
    min_size=1,
    max_size=8,
)
chains = widths.flatmap(
    lambda sizes: st.builds(
        Chain,
        widths=st.just(tuple(sizes)),
        activations=st.lists(
            st.sampled_from(sorted(MEANINGS)), min_size=len(sizes) - 1, max_size=len(sizes) - 1
        ).map(tuple),
        head=st.sampled_from(["raw", "standardised", "weighted", "whitened", "sum", "none"]),
        matmul=st.booleans(),
        scale=st.sampled_from([1e-15, 1e-3, 1.0, 1e3, 1e15]),
        seed=st.integers(0, 2**16),
    )
)


@settings(
    max_examples=40,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(chain=chains, batch=st.one_of(st.integers(1, 40), st.integers(41, 300)))
def test_random_networks_match_float64(isa: str, chain: Chain, batch: int):
    mean, deviation, *_ = chain.parameters()
    x = (mean + deviation * np.random.default_rng(1).normal(size=(batch, len(mean)))).astype(np.float32)
    scorer = load(chain.to_onnx(), dim=len(mean))
    assert scorer.facts["instruction set"] == isa
    exact_score, exact_output = chain.evaluate(x, np.float64)
    plain_score, plain_output = chain.evaluate(x, np.float32)
    assert_close(scorer.score(x), exact_score, plain_score, 1e-5)
    assert_close(scorer.reconstruct(x), exact_output, plain_output, 1e-5)
    assert scorer.score(x[0]) == pytest.approx(exact_score[0], rel=1e-4, abs=1e-37)


@pytest.mark.parametrize("activation", sorted(MEANINGS))
def test_every_activation_as_a_layer_and_on_the_input(isa: str, activation: str):
    chain = Chain((24, 40, 9), (activation, activation), "standardised", matmul=True, scale=1.0, seed=3)
    x = np.random.default_rng(0).normal(0, 6, size=(70, 24)).astype(np.float32)
    assert_close(
        load(chain.to_onnx(), dim=24).score(x),
        *(chain.evaluate(x, t)[0] for t in (np.float64, np.float32)),
        1e-5,
    )

    graph = Graph()
    graph.add("Identity", graph.activate(activation, "input"), output="output")
    x = np.array([0, 1e-40, -1e-40, 1e-20, 0.3, -0.7, 5, -9, 60, -80, 1e4, -1e4, 1e30, -1e30], np.float32)[
        None
    ]
    got = load(graph.model(x.shape[1], ["output"]), dim=x.shape[1]).reconstruct(x)
    with np.errstate(all="ignore"):
        exact = MEANINGS[activation](x.astype(np.float64))
    assert np.allclose(got, exact, rtol=1e-5, atol=1e-35)


@pytest.mark.parametrize("magnitude", [1e30, 3e38])
def test_rows_beyond_the_range_get_the_largest_score(isa: str, magnitude: float):
    network = Network.random([8, 6, 3, 6, 8])
    scorer = load(network.to_onnx(), dim=8)
    x = np.full((40, 8), magnitude, np.float32)
    x[::2] = 1
    assert np.all(scorer.score(x)[1::2] == np.float32(FLOAT32_MAX))
    assert np.allclose(scorer.score(x)[::2], network.reference(x[::2])[0], rtol=1e-5)
    assert scorer.score(x[1])[0] == np.float32(FLOAT32_MAX)


def test_subnormal_rows_score_like_zero(isa: str):
    network = Network.random([8, 6, 3, 6, 8])
    scorer = load(network.to_onnx(), dim=8)
    for rows in (1, 40):
        x = np.full((rows, 8), 1e-42, np.float32)
        assert np.allclose(scorer.score(x), network.reference(np.zeros((rows, 8)))[0], rtol=1e-5)


@pytest.mark.parametrize("head", ["raw", "standardised"])
def test_large_offsets_do_not_cost_precision(isa: str, head: str):
    rng = np.random.default_rng(5)
    chain = Chain((16, 32, 4), ("Relu", "Relu"), head, matmul=False, scale=1.0, seed=5)
    offset = 1e5
    network = Network(
        mean=(offset + rng.normal(size=16)).astype(np.float32),
        scale=np.ones(16, np.float32),
        weights=chain.parameters()[2],
        biases=chain.parameters()[3],
    )
    x = (offset + rng.normal(size=(50, 16))).astype(np.float32)
    got = load(network.to_onnx(with_score=head == "standardised"), dim=16).score(x)
    assert np.allclose(got, network.reference(x)[0], rtol=1e-5)


def test_the_reconstruction_may_be_absent(isa: str):
    network = Network.random([8, 3, 8])
    x = np.random.default_rng(0).normal(size=(30, 8)).astype(np.float32)
    assert np.allclose(
        load(network.to_onnx(with_output=False), dim=8).score(x), network.reference(x)[0], rtol=1e-5
    )


def test_threads_agree_with_one_thread():
    network = Network.random([40, 64, 8, 64, 40])
    x = np.random.default_rng(0).normal(size=(3000, 40)).astype(np.float32)
    one = load(network.to_onnx(), dim=40)
    several = load(network.to_onnx(), dim=40, num_threads=3)
    expected = one.score(x)
    with ThreadPoolExecutor(6) as pool:
        for scorer in (one, several):
            for scores in pool.map(lambda _, s=scorer: s.score(x), range(30)):
                assert np.array_equal(scores, expected)


def test_a_refusal_names_operator_and_node():
    graph = Graph()
    graph.add("Softmax", graph.add("Relu", "input"), output="output")
    with pytest.raises(UnsupportedModelError, match=r'model\.onnx: .* Softmax "Softmax_1"'):
        load(graph.model(4, ["output"]), dim=4)
