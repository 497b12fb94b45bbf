"""Operators that the fused backend lowers, one small graph each, against the ONNX reference evaluator."""

from __future__ import annotations

import threading
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from datasentinel.errors import UnsupportedModelError
from tests.parity.fused_scorer import load
from tests.parity.test_fused_parity import Graph

if TYPE_CHECKING:
    from collections.abc import Callable

    Build = Callable[[Graph], str]

DIM = 6
RNG = np.random.default_rng(11)
ROW = RNG.normal(size=DIM)
MATRIX = RNG.normal(size=(DIM, DIM))


def _batch_normalization(g: Graph) -> str:
    parameters = [g.constant(v) for v in (ROW, ROW + 1, ROW - 1, np.abs(ROW) + 0.1)]
    layer = g.add("Gemm", "input", g.constant(MATRIX))
    return g.add("Relu", g.add("BatchNormalization", layer, *parameters, epsilon=1e-3))


def _sides(op: str) -> Build:
    """A constant on the left, one on the right, and two computed operands of which one is repeated."""

    def build(g: Graph) -> str:
        left = g.add(op, g.constant(ROW), g.add("Exp", "input"))
        right = g.add(op, g.add("Exp", "input"), g.constant(2.5))
        one_column = g.reduce("ReduceMax", g.add("Abs", "input"), keepdims=1)
        return g.add(op, g.add("Mul", left, right), g.add("Exp", one_column))

    return build


def _slices(g: Graph) -> str:
    i64 = np.int64
    tail = g.add("Slice", "input", g.constant([-4], i64), g.constant([99], i64), g.constant([1], i64))
    head = g.add("Gather", "input", g.constant([-1, 0], i64), axis=1)
    return g.add("Concat", tail, head, axis=-1)


def _ranges(g: Graph) -> str:
    """Neighbouring columns of others that overlap, begin anywhere, are read after each other and are the output."""

    def columns(x: str, first: int, end: int) -> str:
        return g.add("Slice", x, *(g.constant([at], np.int64) for at in (first, end, 1)))

    wide = g.add("Concat", g.add("Tanh", "input"), "input", g.add("Exp", "input"), axis=1)
    middle = columns(wide, 3, 15)
    product = g.add("Mul", columns(middle, 2, 8), columns(middle, 11, 12))
    layer = g.add("MatMul", columns(wide, 7, 13), g.constant(MATRIX))
    total = g.add("Max", g.add("Add", product, columns(wide, 12, 18)), columns(wide, 0, 6))
    return columns(g.add("Concat", layer, g.add("Sub", total, layer), axis=1), 5, 11)


def _sums_of_scaled(g: Graph) -> str:
    """Each operand of a sum as it is, scaled, a difference, a square and a scaled square."""
    scaled = g.add("Mul", "input", g.constant(ROW))
    difference = g.add("Sub", scaled, g.add("Tanh", "input"))
    square = g.add("Mul", difference, difference)
    terms = ["input", scaled, difference, square, g.add("Div", square, g.constant(ROW + 3))]
    total = g.add("Add", "input", "input")
    for left in terms:
        for right in terms:
            total = g.add("Add", g.add("Mul", g.add("Add", left, right), g.constant(0.1)), total)
    return total


def _split(g: Graph) -> str:
    g.nodes.append(helper.make_node("Split", ["input", g.constant([2, 4], np.int64)], ["a", "b"], axis=1))
    return g.add("Concat", "b", g.add("Neg", "a"), axis=1)


def _shapes(g: Graph) -> str:
    column = g.reduce("ReduceL2", "input", keepdims=1)
    flat = g.add("Squeeze", column, g.constant([1], np.int64))
    back = g.add("Unsqueeze", flat, g.constant([1], np.int64))
    again = g.add("Reshape", back, g.constant([-1, 1], np.int64))
    same = g.add("Reshape", "input", g.constant([0, -1], np.int64))
    return g.add("Mul", g.add("Dropout", g.add("Flatten", same)), g.add("Cast", again, to=TensorProto.FLOAT))


def _folded_constants(g: Graph) -> str:
    weight = g.add("Transpose", g.add("Identity", g.constant(MATRIX)), perm=[1, 0])
    scale = g.add("Sqrt", g.add("Add", g.add("Mul", g.constant(ROW), g.constant(ROW)), g.constant(1)))
    return g.add("Div", g.add("MatMul", "input", weight), g.add("Neg", scale))


def _shared_layer(g: Graph) -> str:
    """A layer whose raw result, shifted result and activation are all read: nothing may be folded into it."""
    raw = g.add("MatMul", "input", g.constant(MATRIX))
    shifted = g.add("Add", raw, g.constant(ROW))
    doubled = g.add("Mul", shifted, g.constant(2))
    active = g.add("Tanh", shifted)
    return g.add("Add", g.add("Sub", doubled, raw), g.add("Mul", active, shifted))


def _affine_between_layers(g: Graph) -> str:
    hidden = g.add("Relu", g.add("Gemm", "input", g.constant(MATRIX), g.constant(ROW), alpha=0.5, beta=2.0))
    scaled = g.add("Add", g.add("Mul", hidden, g.constant(ROW)), g.constant(ROW - 2))
    return g.add("MatMul", g.add("Sub", g.constant(1), scaled), g.constant(MATRIX))


def _powers(g: Graph) -> str:
    positive = g.add("Add", g.add("Abs", "input"), g.constant(1))
    parts = [g.add("Pow", positive, g.constant(p)) for p in (3, 2, 1, 0.5, -1)]
    bounded = g.add("Tanh", "input")
    parts += [g.add("Pow", bounded, g.constant(p)) for p in (4, 5, 7, 16)]
    total = parts[0]
    for part in parts[1:]:
        total = g.add("Add", total, part)
    return g.add("Sub", total, g.add("Reciprocal", positive))


def _squares_of_squares(g: Graph) -> str:
    residual = g.add("Sub", g.add("Mul", "input", g.constant(ROW)), g.add("Tanh", "input"))
    squared = g.add("Mul", g.add("Mul", residual, residual), g.constant(np.abs(ROW)))
    return g.add("Sub", g.add("Mul", squared, squared), squared)


def _extremes(g: Graph) -> str:
    for name, largest in (("smallest", 0), ("largest", 1)):
        inputs = ["input", g.constant([3], np.int64)]
        g.nodes.append(helper.make_node("TopK", inputs, [name, f"{name}_index"], largest=largest))
    bounded = g.add("Max", g.add("Min", "largest", g.constant(0.5)), g.constant(-0.5))
    return g.add("Concat", "smallest", g.add("Max", bounded, "smallest"), axis=1)


def _reductions(g: Graph) -> str:
    parts = [g.reduce(op, "input") for op in ("ReduceSum", "ReduceMean", "ReduceMin", "ReduceMax")]
    parts += [g.reduce(op, g.add("Mul", "input", g.constant(ROW))) for op in ("ReduceL1", "ReduceSumSquare")]
    return g.add("Concat", *parts, axis=1)


GRAPHS: dict[str, Build] = {
    "batch normalization": _batch_normalization,
    "add": _sides("Add"),
    "subtract": _sides("Sub"),
    "multiply": _sides("Mul"),
    "divide": _sides("Div"),
    "slices": _slices,
    "ranges": _ranges,
    "sums of scaled": _sums_of_scaled,
    "split": _split,
    "shapes": _shapes,
    "folded constants": _folded_constants,
    "shared layer": _shared_layer,
    "affine between layers": _affine_between_layers,
    "powers": _powers,
    "squares of squares": _squares_of_squares,
    "extremes": _extremes,
    "reductions": _reductions,
}


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("name", GRAPHS)
def test_a_graph_means_what_onnx_says(name: str):
    graph = Graph()
    graph.add("Identity", GRAPHS[name](graph), output="output")
    model = graph.model(DIM, ["output"])
    scorer = load(model, dim=DIM)
    for batch in (1, 4, 7, 40):
        x = np.random.default_rng(batch).normal(size=(batch, DIM)).astype(np.float32)
        (expected,) = ReferenceEvaluator(onnx.load_from_string(model)).run(None, {"input": x})
        np.testing.assert_allclose(scorer.reconstruct(x), expected, rtol=2e-5, atol=2e-5)
        exact = ((x.astype(np.float64) - expected) ** 2).mean(axis=1)
        np.testing.assert_allclose(scorer.score(x), exact, rtol=2e-5)


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("largest", [0, 1])
@pytest.mark.parametrize("width", [13, 16, 67, 211])
def test_the_first_columns_of_an_order_are_found(largest, width):
    """Short lists are kept in registers, longer ones than eight in memory; the last vector is not full.

    Some pick among scaled columns. Of many columns they pick in parts, for which the layer's input must stay.
    """
    counts = (1, 2, 3, 8, 9, 12)
    graph = Graph()
    hidden = graph.add("Tanh", graph.add("Mul", "input", graph.constant(ROW)))
    layer = graph.add("MatMul", hidden, graph.constant(RNG.normal(size=(DIM, width))))
    for i, count in enumerate(counts):
        scaled = graph.add("Mul", layer, graph.constant(RNG.normal(size=width)))
        inputs = [scaled if i % 2 else layer, graph.constant([count], np.int64)]
        outputs = [f"first{count}", f"index{count}"]
        graph.nodes.append(helper.make_node("TopK", inputs, outputs, largest=largest))
    every = graph.add("Concat", *(f"first{count}" for count in counts), axis=1)
    weights = RNG.normal(size=(sum(counts), DIM))
    graph.add("MatMul", every, graph.constant(weights), output="output")
    model = graph.model(DIM, ["output"])
    scorer = load(model, dim=DIM)
    for batch in (1, 5, 40):
        x = np.random.default_rng(batch).normal(size=(batch, DIM)).astype(np.float32)
        (expected,) = ReferenceEvaluator(onnx.load_from_string(model)).run(None, {"input": x})
        np.testing.assert_allclose(scorer.reconstruct(x), expected, rtol=2e-5, atol=2e-5)


def test_columns_and_rows_are_not_mixed_up():
    for node in (
        helper.make_node("Transpose", ["input"], ["output"], name="t"),
        helper.make_node("Reshape", ["input", "shape"], ["output"], name="t"),
        helper.make_node("ReduceMean", ["input"], ["output"], name="t"),
        helper.make_node("Concat", ["input", "input"], ["output"], name="t", axis=0),
        helper.make_node("Add", ["input", "column"], ["output"], name="t"),
    ):
        graph = helper.make_graph(
            [node],
            "g",
            [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", DIM])],
            [helper.make_tensor_value_info("output", TensorProto.FLOAT, None)],
            [
                numpy_helper.from_array(np.array([-1, 2], np.int64), "shape"),
                numpy_helper.from_array(np.ones((DIM, 1), np.float32), "column"),
            ],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
        with pytest.raises(UnsupportedModelError, match=f'{node.op_type} "t"'):
            load(model.SerializeToString(), dim=DIM)


@pytest.mark.parametrize("op", ["Sigmoid", "ReduceMax"])
def test_deep_graphs_load_in_a_small_stack(op):
    depth = 20_000
    names = ["input", *(f"x{i}" for i in range(1, depth)), "score"]
    axis = ["axis"] if op == "ReduceMax" else []
    nodes = [helper.make_node(op, [a, *axis], [b]) for a, b in pairwise(names)]
    column = ("batch", 1)
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, column)],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, column)],
        [numpy_helper.from_array(np.array([1]), "axis")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    scores = []

    def score() -> None:
        scores.append(load(model.SerializeToString(), dim=1).score(np.float32([[0.5]])))

    before = threading.stack_size(1 << 20)
    try:
        thread = threading.Thread(target=score)
        thread.start()
    finally:
        threading.stack_size(before)
    thread.join()
    fixed_point = 0.659046068407  # x = 1 / (1 + exp(-x))
    np.testing.assert_allclose(scores, [[0.5 if op == "ReduceMax" else fixed_point]], rtol=1e-6)
