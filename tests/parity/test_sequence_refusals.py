"""What the fused backend refuses of graphs over sequences, by name, and constants for every row."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from datasentinel import gpu
from datasentinel.errors import ArtifactError, UnsupportedModelError
from tests.parity.fused_scorer import load
from tests.parity.test_sequences import (
    CHANNELS,
    STEPS,
    D,
    Sequences,
    convolution,
    recurrent,
    rows,
    weights,
    with_output,
)
from tests.parity.tree_models import run


def refused(build):
    g = Sequences()
    g.add("Reshape", build(g), g.integers(-1, D), output="output")
    return with_output(g, "output")


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda g: g.add("Conv", g.start(), g.add("Tanh", "input")), "Conv .*weights are not constant"),
        (lambda g: g.add("Conv", g.start(), g.constant(weights(4, 4, 1, 1))), "Conv .*one axis"),
        (lambda g: g.add("Transpose", "input"), "Transpose .*mixes rows"),
        (lambda g: g.add("ReduceSum", g.start(), g.integers(0)), "ReduceSum .*does not reduce"),
        (lambda g: g.add("Concat", g.start(), g.start(), axis=0), "Concat .*does not join"),
        (lambda g: g.add("Expand", "input", g.integers(5, D)), "Expand .*repeats rows"),
        (lambda g: g.add("Tile", g.start(), g.integers(1, 1 << 19, 1 << 19)), "Tile .*columns"),
        (lambda g: g.add("Pad", g.start(), g.integers(0, 1 << 18, 1 << 18, 0, 0, 0)), "Pad .*columns"),
        (lambda g: g.add("Add", "input", g.add("ConstantOfShape", g.integers(1 << 40))), "ConstantOfShape"),
        (lambda g: g.add("Conv", g.start(), g.constant(weights(4, 4, 3)), pads=[1 << 19, 1 << 19]), "Conv .*columns"),
        (lambda g: g.add("Mul", "input", g.add("Cast", g.add("Shape", "input"), to=1)), "number of rows"),
    ],
)  # fmt: skip
def test_what_it_cannot_run_is_refused_by_name(build, message):
    with pytest.raises(UnsupportedModelError, match=message):
        load(refused(build), dim=D)


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"activations": ["Relu", "Tanh"]}, "activations"),
        ({"clip": 3.0}, "clip"),
        ({"layout": 1}, "layout"),
        ({"direction": "sideways"}, "direction"),
    ],
)
def test_unusual_cells_are_refused_by_name(attributes, message):
    model, _ = recurrent("GRU", "forward")
    proto = onnx.load_model_from_string(model)
    (node,) = (n for n in proto.graph.node if n.op_type == "GRU")
    for name, value in attributes.items():
        for old in [a for a in node.attribute if a.name == name]:
            node.attribute.remove(old)
        node.attribute.append(helper.make_attribute(name, value))
    with pytest.raises(UnsupportedModelError, match=f'GRU "cell": .*{message}'):
        load(proto.SerializeToString(), dim=D)


def test_weights_that_do_not_fit_are_an_error():
    g = Sequences()
    g.add("Flatten", g.add("Conv", g.start(), g.constant(weights(4, 5, 3))), output="output")
    with pytest.raises(ArtifactError, match="do not fit 4 channels"):
        load(with_output(g, "output"), dim=D)


def test_a_small_file_may_not_ask_for_endless_steps():
    """Each of many small layers over a long sequence is unrolled."""
    g = Sequences()
    x = g.add("Reshape", g.add("Tile", "input", g.integers(1, 20)), g.integers(0, D * 20, 1))
    x = g.add("Transpose", x, perm=[1, 0, 2])
    for _ in range(50):
        inputs = [x, g.constant(np.ones((1, 1, 1))), g.constant(np.ones((1, 1, 1)))]
        y = f"y{len(g.nodes)}"
        g.nodes.append(helper.make_node("RNN", inputs, [y], name=y, hidden_size=1))
        x = g.add("Squeeze", y, g.integers(1))
    flat = g.add("Flatten", g.add("Transpose", x, perm=[1, 0, 2]))
    g.add("Slice", flat, g.integers(0), g.integers(D), g.integers(1), output="output")
    with pytest.raises(UnsupportedModelError, match=r"RNN .*more than 1024 steps together"):
        load(with_output(g, "output"), dim=D)


def wide_axis(g):
    """[batch, D, 2^14] of which each number is one of the input's."""
    return g.add("Expand", g.add("Unsqueeze", "input", g.integers(2)), g.integers(1, D, 1 << 14))


def many_sums(g):
    wide = wide_axis(g)
    return g.add("Sum", *(g.add("ReduceSum", wide, g.integers(2), keepdims=0) for _ in range(20)))


def many_layers(g):
    """Of one step each, with the same weights."""
    x = g.add("Transpose", g.add("Unsqueeze", "input", g.integers(1)), perm=[1, 0, 2])
    hidden = 128
    shared = g.constant(weights(1, hidden, D)), g.constant(weights(1, hidden, hidden))
    last = []
    for i in range(150):
        g.nodes.append(helper.make_node("RNN", [x, *shared], ["", f"h{i}"], name=f"n{i}", hidden_size=hidden))
        last.append(f"h{i}")
    total = g.add("Transpose", g.add("Sum", *last), perm=[1, 0, 2])
    return g.add("Slice", g.add("Flatten", total), g.integers(0), g.integers(D), g.integers(1))


@pytest.mark.parametrize("build", [many_sums, many_layers])
def test_a_small_file_may_not_ask_for_much_memory(build):
    with pytest.raises(UnsupportedModelError, match="far more memory"):
        load(refused(build), dim=D)


def for_every_row(g, *sizes, value=0.5):
    """A constant with the sizes; None stands for the number of rows."""
    batch = g.add("Shape", "input", start=0, end=1)
    parts = [batch if size is None else g.integers(size) for size in sizes]
    shape = g.add("Concat", *parts, axis=0)
    filled = helper.make_tensor("value", TensorProto.FLOAT, [1], [value])
    return g.add("ConstantOfShape", shape, value=filled)


def as_number(g, whole):
    return g.add("Cast", whole, to=TensorProto.FLOAT)


@pytest.mark.parametrize(
    "build",
    [
        lambda g: g.add("Div", "input", as_number(g, g.add("Shape", for_every_row(g, None)))),
        lambda g: g.add(
            "Div",
            "input",
            as_number(g, g.add("Shape", g.add("Unsqueeze", for_every_row(g, None), g.integers(1)), end=1)),
        ),
        lambda g: g.add(
            "Div",
            "input",
            as_number(g, g.add("Shape", g.add("Expand", g.constant(1.0), g.add("Shape", "input")), end=1)),
        ),
        lambda g: g.add("Mul", "input", g.add("Concat", *[for_every_row(g, None, 1)] * 2, axis=0)),
        lambda g: g.add("Tile", for_every_row(g, None, D), g.integers(2, 1)),
        lambda g: g.add("ReduceSum", g.add("MatMul", "input", for_every_row(g, D, None)), g.integers(1)),
        lambda g: g.add("Add", g.add("Slice", "input", g.integers(0), g.integers(1), g.integers(1)), for_every_row(g, None)),
        lambda g: g.add("Mul", "input", g.add("Mul", for_every_row(g, None), for_every_row(g, None, 1))),
        lambda g: g.add("Add", "input", for_every_row(g, None, None)),
    ],
    ids=["shape", "moved", "expanded", "joined", "repeated", "weights", "across", "both", "twice"],
)  # fmt: skip
def test_what_depends_on_the_number_of_rows_is_refused(build):
    """One row of such a constant is held: its rows can neither be counted nor stand across those of the input."""
    with pytest.raises(UnsupportedModelError, match=r"rows?\b|impossible number"):
        load(refused(build), dim=D)


def test_constants_for_every_row_go_where_the_rows_go():
    g = Sequences()
    x = g.start()  # [batch, channels, steps]
    x = g.add("Mul", x, for_every_row(g, None, CHANNELS, STEPS))
    x = g.add("Add", x, g.add("Transpose", for_every_row(g, 1, None, CHANNELS), perm=[1, 2, 0]))
    scaled = g.add("Mul", for_every_row(g, None, 1), g.constant(weights(1, CHANNELS)))
    x = g.add("Sub", x, g.add("Unsqueeze", scaled, g.integers(2)))
    joined = g.add(
        "Concat", for_every_row(g, None, 2, STEPS), for_every_row(g, None, 2, STEPS, value=3.0), axis=1
    )
    model, _ = g.finish(g.add("Div", x, g.add("Neg", joined)), D)
    x = rows(20)
    np.testing.assert_allclose(load(model, dim=D).reconstruct(x), run(model, x, "output"), atol=2e-5)


def test_no_kernel_is_generated_for_them():
    for model in (convolution("Conv")[0], recurrent("GRU", "forward")[0]):
        with pytest.raises(UnsupportedModelError, match="fused-cuda backend runs no layers over sequences"):
            gpu.cuda_source(model, name="m")
