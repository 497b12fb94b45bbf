"""What a graph computes of a tree's leaf on the fused backend: beforehand, and rounded as the graph would."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper

from datasentinel.errors import UnsupportedModelError
from tests.parity.fused_scorer import load
from tests.parity.tree_models import D, Trees, ensemble, model_of, rows, run, stump


def test_functions_of_a_leaf_are_computed_beforehand(isa):
    """What skl2onnx writes of each tree of an IsolationForest is looked up, compared, cast and shaped."""
    constants = {
        "one": 1.0, "two": 2.0, "none": 0.0, "third": 1 / 3,
    }  # fmt: skip
    nodes = [helper.make_node("Constant", [], [name], value_float=value) for name, value in constants.items()]
    nodes.append(helper.make_node("Constant", [], ["column"], value_ints=[-1, 1]))
    nodes.append(helper.make_node("Constant", [], ["whole_two"], value_int=2))
    expected = np.zeros(100)
    x = rows(100)
    for t in range(5):
        trees = Trees(t).grow(20)
        nodes.append(ensemble(trees, output=f"{t}raw", name=f"tree{t}", base_values=[4.5]))
        raw = trees.sums(x)[:, 0] + 4.5
        steps = [
            ("Cast", ["raw"], "number", {"to": TensorProto.INT64}),
            ("ai.onnx.ml:LabelEncoder", ["number"], "label",
             {"keys_int64s": [3, 4, 5], "values_floats": [0.25, -2.0, 8.5], "default_float": 1.5}),
            ("Reshape", ["label", "=column"], "shaped", {}),
            ("Div", ["number", "=whole_two"], "half", {}),
            ("Cast", ["half"], "half_real", {"to": TensorProto.FLOAT}),
            ("Greater", ["label", "=none"], "positive", {}),
            ("Where", ["positive", "shaped", "=third"], "chosen", {}),
            ("Max", ["chosen", "=one", "half_real"], "greatest", {}),
            ("Log", ["greatest"], "logarithm", {}),
            ("Pow", ["=two", "logarithm"], "power", {}),
            ("Sum", ["power", "shaped", "half_real"], "sum", {}),
        ]  # fmt: skip
        for op, sources, target, attributes in steps:
            domain, _, name = op.rpartition(":")
            inputs = [s[1:] if s.startswith("=") else f"{t}{s}" for s in sources]
            nodes.append(helper.make_node(name, inputs, [f"{t}{target}"], domain=domain, **attributes))
        number = np.trunc(raw)
        label = np.select([number == 3, number == 4, number == 5], [0.25, -2.0, 8.5], 1.5)
        chosen = np.where(label > 0, label, np.float32(1 / 3))
        expected += 2 ** np.log(np.maximum(np.maximum(chosen, 1), number // 2)) + label + number // 2
    nodes.append(helper.make_node("Sum", [f"{t}sum" for t in range(5)], ["total"]))
    nodes.append(helper.make_node("Mul", ["total", "third"], ["scaled"]))
    nodes.append(helper.make_node("Neg", ["scaled"], ["negated"]))
    nodes.append(helper.make_node("Pow", ["two", "negated"], ["score"]))
    model = model_of(*nodes)
    expected = 2 ** (-expected * np.float32(1 / 3))
    scorer = load(model, dim=D)
    np.testing.assert_allclose(scorer.score(x), expected, rtol=5e-6)
    np.testing.assert_allclose(scorer.score(x), run(model, x)[:, 0], rtol=2e-5)


def folded(steps, *, leaves=(0.1, 0.7), **attributes):
    """The graph that computes `steps` of a stump's `leaves`: (operator, inputs, attributes), inputs being the
    step before ("_") or numbers, integers where they are ints; its result is cast to float32."""
    nodes = [ensemble(stump(*leaves), output="0", **attributes)]
    for i, (op, sources, given) in enumerate(steps):
        names = []
        for source in sources:
            names.append(str(i) if source == "_" else f"c{len(nodes)}")
            if isinstance(source, np.generic):
                tensor = helper.make_tensor("", helper.np_dtype_to_tensor_dtype(source.dtype), [], [source])
                nodes.append(helper.make_node("Constant", [], [names[-1]], value=tensor))
        domain, _, name = op.rpartition(":")
        nodes.append(helper.make_node(name, names, [str(i + 1)], name=name, domain=domain, **given))
    nodes.append(helper.make_node("Cast", [str(len(steps))], ["score"], to=TensorProto.FLOAT))
    return model_of(*nodes)


ADDED = ("Add", ["_", np.float32(0.2)], {})
SCALED = ("Mul", ["_", np.float32(10)], {})
TO_INT32 = ("Cast", ["_"], {"to": TensorProto.INT32})


@pytest.mark.parametrize(
    ("steps", "attributes"),
    [
        ([ADDED, ("GreaterOrEqual", ["_", np.float32(0.3)], {})], {}),
        ([ADDED, ("Less", ["_", np.float32(0.3)], {})], {}),
        ([ADDED, ("Equal", ["_", np.float32(0.3)], {})], {}),
        ([("GreaterOrEqual", ["_", np.float32(0.3)], {})], {"base_values": [0.2]}),
        ([SCALED, ("Floor", ["_"], {})], {}),
        ([SCALED, TO_INT32], {}),
        (
            [
                ADDED,
                (
                    "ai.onnx.ml:LabelEncoder",
                    ["_"],
                    {"keys_floats": [0.3], "values_floats": [5.0], "default_float": 2.0},
                ),
            ],
            {},
        ),
        # Of a leaf that is not a number, and of -0.
        (
            [
                ("Sub", ["_", np.float32(0.5)], {}),
                ("Log", ["_"], {}),
                (
                    "ai.onnx.ml:LabelEncoder",
                    ["_"],
                    {"keys_floats": [0.3], "values_floats": [5.0], "default_float": 2.0},
                ),
            ],
            {},
        ),
        (
            [
                ("Relu", ["_"], {}),
                ("Mul", ["_", np.float32(-0.0)], {}),
                ("Reciprocal", ["_"], {}),
                ("Less", ["_", np.float32(0)], {}),
            ],
            {},
        ),
    ],
)
def test_functions_of_a_leaf_round_as_the_graph_does(steps, attributes):
    """In float64, 0.1 + 0.2 is no longer at least 0.3, each a float32, and 10 times 0.7 is less than 7."""
    model = folded(steps, **attributes)
    x = np.zeros((2, D), np.float32)
    x[1] = 1
    np.testing.assert_array_equal(load(model, dim=D).score(x), run(model, x)[:, 0])


def test_functions_of_a_leaf_that_have_no_exact_result_are_refused():
    beyond = [TO_INT32, ("Mul", ["_", np.int32(1 << 16)], {})]
    with pytest.raises(UnsupportedModelError, match='"Mul": its integers leave the range of int32'):
        load(folded(beyond, leaves=(2.0, 40000.0)), dim=D)
    with pytest.raises(UnsupportedModelError, match='"Cast": its integers leave the range of int32'):
        load(folded([TO_INT32], leaves=(1.0, 3e9)), dim=D)
    by_zero = [TO_INT32, ("Div", ["_", np.int32(0)], {})]
    with pytest.raises(UnsupportedModelError, match='"Div": its integers leave the range of int32'):
        load(folded(by_zero, leaves=(0.0, 1.0)), dim=D)
    keys = {"keys_floats": [float("nan"), 1.0], "values_floats": [5.0, 6.0]}
    with pytest.raises(UnsupportedModelError, match="NaN is among its keys"):
        load(folded([("ai.onnx.ml:LabelEncoder", ["_"], keys)]), dim=D)
