"""Graphs over sequences on the fused backend: convolutions, recurrent layers, and axes beside that of the rows.

References are torch's functions in float64, on the same weights, and ONNX Runtime.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch  # noqa: TID251
from onnx import TensorProto, helper, numpy_helper

from tests.parity.fused_scorer import load
from tests.parity.test_batch_invariance import assert_same_in_every_batch
from tests.parity.test_fused_parity import Graph
from tests.parity.tree_models import run

STEPS, CHANNELS = 9, 4
D = STEPS * CHANNELS
BATCHES = (1, 3, 40)


def rows(count, seed=0):
    return np.random.default_rng(seed).normal(size=(count, D)).astype(np.float32)


def weights(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).normal(0, 0.4, shape).astype(np.float32)


def as_float64(*arrays):
    return [None if a is None else torch.from_numpy(np.asarray(a, np.float64)) for a in arrays]


class Sequences(Graph):
    """A graph whose input is [steps, channels] in each row."""

    def integers(self, *values):
        return self.constant(values, np.int64)

    def start(self, *, channels_first=True):
        x = self.add("Reshape", "input", self.integers(0, STEPS, CHANNELS))
        return self.add("Transpose", x, perm=[0, 2, 1] if channels_first else [1, 0, 2])

    def finish(self, x, width):
        """The output: what the values of each row are, projected to D columns; and the projection."""
        projection = weights(width, D, seed=5)
        flat = self.add("Reshape", x, self.integers(-1, width))
        self.add("MatMul", flat, self.constant(projection), output="output")
        return self.model(D, ["output"]), projection.astype(np.float64)


def check(model, exact, *, tolerance=2e-6):
    scorer = load(model, dim=D)
    for count in BATCHES:
        x = rows(count, seed=count)
        expected = exact(torch.from_numpy(x.astype(np.float64)))
        scale = np.abs(expected).max()
        np.testing.assert_allclose(scorer.reconstruct(x), expected, rtol=0, atol=tolerance * scale)
        np.testing.assert_allclose(run(model, x, "output"), expected, rtol=0, atol=5e-6 * scale)


CONVOLUTIONS = [
    {},
    {"kernel": 1},
    {"kernel": 9, "filters": 1},
    {"pads": (2, 1), "stride": 2},
    {"pads": (1, 3), "dilation": 2, "kernel": 4},
    pytest.param({"stride": 3, "dilation": 3, "kernel": 2, "filters": 33}, marks=pytest.mark.slow),
    {"groups": 2, "pads": (1, 1)},
    pytest.param({"groups": 4, "filters": 8, "stride": 2, "bias": False}, marks=pytest.mark.slow),
    {"kernel": 3, "stride": 20},
    {"kernel": 1, "stride": 20, "pads": (1, 0)},
]


def convolution(
    operator, *, kernel=3, filters=6, pads=(0, 0), stride=1, dilation=1, groups=1, bias=True, **extra
):
    """A graph of one convolution and a ReLU, and torch's answers."""
    transposed = operator == "ConvTranspose"
    shape = (CHANNELS, filters // groups, kernel) if transposed else (filters, CHANNELS // groups, kernel)
    w, b = weights(*shape), weights(filters, seed=1) if bias else None
    g = Sequences()
    inputs = [g.start(), g.constant(w), *([g.constant(b)] if bias else [])]
    attributes = {"strides": [stride], "dilations": [dilation], "pads": list(pads), "group": groups, **extra}
    y = g.add("Relu", g.add(operator, *inputs, **attributes))
    more = extra.get("output_padding", [0])[0]

    def between(x):
        x = x.reshape(-1, STEPS, CHANNELS).transpose(1, 2)
        if not transposed:
            padded = torch.nn.functional.pad(x, pads)
            return torch.nn.functional.conv1d(
                padded, *as_float64(w, b), stride=stride, dilation=dilation, groups=groups
            ).relu()
        whole = torch.nn.functional.conv_transpose1d(
            x, *as_float64(w, b), stride=stride, dilation=dilation, groups=groups, output_padding=more
        )
        return whole[:, :, pads[0] : whole.shape[2] - pads[1]].relu()

    width = between(torch.zeros(1, D, dtype=torch.float64)).numel()
    model, projection = g.finish(y, width)
    return model, lambda x: between(x).flatten(1).numpy() @ projection


@pytest.mark.parametrize("given", CONVOLUTIONS)
@pytest.mark.parametrize("operator", ["Conv", "ConvTranspose"])
def test_convolutions_are_what_torch_computes(isa, operator, given):
    check(*convolution(operator, **given))


def test_a_transposed_convolution_with_more_at_the_end(isa):
    check(*convolution("ConvTranspose", stride=3, pads=(1, 2), output_padding=[2]))


@pytest.mark.parametrize("padding", ["SAME_UPPER", "SAME_LOWER", "VALID"])
@pytest.mark.parametrize("stride", [1, 2])
def test_padding_that_is_left_to_the_operator(padding, stride):
    g = Sequences()
    y = g.add("Conv", g.start(), g.constant(weights(5, CHANNELS, 4)), auto_pad=padding, strides=[stride])
    steps = (STEPS - 4) // stride + 1 if padding == "VALID" else -(-STEPS // stride)
    model, _ = g.finish(y, 5 * steps)
    x = rows(20)
    np.testing.assert_allclose(load(model, dim=D).reconstruct(x), run(model, x, "output"), atol=2e-5)


HIDDEN = 5
KINDS = {"RNN": (torch.nn.RNN, 1), "GRU": (torch.nn.GRU, 3), "LSTM": (torch.nn.LSTM, 4)}
# torch's gates are r, z, n and i, f, g, o; ONNX's z, r, h and i, o, f, c.
ORDERS = {"RNN": [0], "GRU": [1, 0, 2], "LSTM": [0, 3, 1, 2]}


def recurrent(kind, direction, *, output="Y", first=None, **attributes):
    """A graph of one recurrent layer, and torch's answers."""
    torch.manual_seed(3)
    module = KINDS[kind][0](
        CHANNELS, HIDDEN, bidirectional=direction == "bidirectional", batch_first=True
    ).double()
    for parameter in module.parameters():
        parameter.data = parameter.data.float().double()

    def stacked(name):
        suffixes = ("", "_reverse") if direction == "bidirectional" else ("",)
        parts = [getattr(module, f"{name}_l0{suffix}").detach().numpy() for suffix in suffixes]
        return np.stack(
            [np.concatenate([np.split(p, len(ORDERS[kind]))[i] for i in ORDERS[kind]]) for p in parts]
        )

    g = Sequences()
    bias = np.concatenate([stacked("bias_ih"), stacked("bias_hh")], axis=1)
    inputs = [
        g.start(channels_first=False),
        *(g.constant(a) for a in (stacked("weight_ih"), stacked("weight_hh"), bias)),
    ]
    directions = 2 if direction == "bidirectional" else 1
    states = None
    if first is not None:
        states = [np.full((directions, 1, HIDDEN), s, np.float32) for s in first]
        rows_only = g.add("Slice", g.add("Shape", "input"), g.integers(0), g.integers(1))
        sizes = g.add("Concat", g.integers(directions), rows_only, g.integers(HIDDEN), axis=0)
        inputs += ["", *(g.add("Expand", g.constant(s), sizes) for s in states)]
    if kind == "GRU":
        attributes = {"linear_before_reset": 1, **attributes}
    outputs = [output if o == output else "" for o in ("Y", "Y_h", "Y_c")[: 3 if kind == "LSTM" else 2]]
    g.nodes.append(
        helper.make_node(
            kind, inputs, outputs, name="cell", hidden_size=HIDDEN, direction=direction, **attributes
        )
    )
    # [steps, directions, batch, hidden], or without the steps
    perm = [2, 0, 1, 3] if output == "Y" else [1, 0, 2]
    width = HIDDEN * directions * (STEPS if output == "Y" else 1)
    model, projection = g.finish(g.add("Transpose", output, perm=perm), width)

    def exact(x):
        x = x.reshape(-1, STEPS, CHANNELS)
        if direction == "reverse":
            x = x.flip(1)
        begin = None
        if states is not None:
            begin = [torch.from_numpy(np.repeat(s, len(x), axis=1)).double() for s in states]
            begin = tuple(begin) if kind == "LSTM" else begin[0]
        with torch.no_grad():
            y, last = module(x, begin)
        if output == "Y":
            y = y.flip(1) if direction == "reverse" else y
            return y.flatten(1).numpy() @ projection
        state = {"Y_h": last[0] if kind == "LSTM" else last, "Y_c": last[1] if kind == "LSTM" else None}[
            output
        ]
        return state.transpose(0, 1).flatten(1).numpy() @ projection

    return model, exact


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("kind", KINDS)
def test_recurrent_layers_are_what_torch_computes(isa, kind, direction):
    check(*recurrent(kind, direction))


@pytest.mark.parametrize("kind", KINDS)
def test_last_states_from_states_to_begin_with(isa, kind):
    first = (0.3, -0.7) if kind == "LSTM" else (0.3,)
    check(*recurrent(kind, "bidirectional", output="Y_h", first=first))
    if kind == "LSTM":
        check(*recurrent(kind, "forward", output="Y_c", first=first))


def test_a_gate_that_resets_before_the_product():
    """torch has no such GRU: against ONNX Runtime."""
    model, _ = recurrent("GRU", "bidirectional", linear_before_reset=0)
    x = rows(30)
    np.testing.assert_allclose(load(model, dim=D).reconstruct(x), run(model, x, "output"), atol=2e-5)


@pytest.mark.parametrize(
    "model",
    [
        convolution("Conv", pads=(2, 1), stride=2)[0],
        convolution("ConvTranspose", stride=3, filters=7)[0],
        recurrent("LSTM", "bidirectional")[0],
        recurrent("GRU", "forward")[0],
    ],
)
def test_the_same_bits_in_every_batch(isa, model):
    assert_same_in_every_batch(model, rows(100), (1, 2, 3, 7, 16, 17, 33, 64))


class Autoencoder(torch.nn.Module):
    """Convolutions around recurrent layers, as people write them."""

    def __init__(self, cell):
        super().__init__()
        self.down = torch.nn.Sequential(
            torch.nn.Conv1d(CHANNELS, 8, 3, padding=1), torch.nn.BatchNorm1d(8), torch.nn.ReLU(),
            torch.nn.Conv1d(8, 6, 3, stride=2),
        )  # fmt: skip
        self.encoder = cell(6, 5, num_layers=2, batch_first=True, bidirectional=True)
        self.decoder = cell(10, 7, batch_first=True)
        self.linear = torch.nn.Linear(7, 6)
        self.up = torch.nn.ConvTranspose1d(6, CHANNELS, 3, stride=2)

    def forward(self, rows):
        x = rows.view(-1, STEPS, CHANNELS).transpose(1, 2)
        x = torch.nn.functional.leaky_relu(self.down(x)).transpose(1, 2)
        code = self.encoder(x)[0][:, -1]
        decoded, _ = self.decoder(code.unsqueeze(1).repeat(1, 4, 1))
        x = self.up(torch.tanh(self.linear(decoded)).transpose(1, 2))
        return x.transpose(1, 2).reshape(-1, D)


def exported(module, path, *, dynamo):
    module = module.eval()
    with torch.no_grad():
        module(torch.from_numpy(rows(50)))
    shapes = (
        {"dynamic_shapes": ({0: torch.export.Dim("batch")},)}
        if dynamo
        else {"dynamic_axes": {"input": {0: "batch"}, "output": {0: "batch"}}}
    )
    torch.onnx.export(
        module, (torch.from_numpy(rows(3)),), path, input_names=["input"], output_names=["output"],
        opset_version=18, dynamo=dynamo, **({"external_data": False} if dynamo else {}), **shapes,
    )  # fmt: skip
    return path.read_bytes()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "dynamo", [False, pytest.param(True, marks=pytest.mark.slow, id="dynamo")], ids=["torchscript", None]
)
@pytest.mark.parametrize("cell", [pytest.param(torch.nn.GRU, marks=pytest.mark.slow), torch.nn.LSTM])
def test_autoencoders_as_torch_exports_them(tmp_path, cell, dynamo):
    torch.manual_seed(1)
    module = Autoencoder(cell)
    model = exported(module, tmp_path / "model.onnx", dynamo=dynamo)
    double = module.double()
    with torch.no_grad():
        check(model, lambda x: double(x).numpy())
    assert_same_in_every_batch(model, rows(70), (1, 5, 16, 64))


def _axes(g):
    """Every way to move, pick, join and reduce along axes beside that of the rows."""
    x = g.start()  # [batch, channels, steps]
    turned = g.add("Transpose", x, perm=[1, 2, 0])  # rows last
    back = g.add("Transpose", turned, perm=[2, 1, 0])  # [batch, steps, channels]
    part = g.add("Slice", back, g.integers(-2), g.integers(-99), g.integers(1), g.integers(-3))
    last = g.add("Gather", back, g.constant(-1, np.int64), axis=1)
    some = g.add("Gather", back, g.integers(3, 0, 0), axis=2)
    padded = g.add("Pad", x, g.integers(0, 1, 2, 0, 0, 1))
    mirrored = g.add("Pad", x, g.integers(0, 0, 2, 0, 0, 3), mode="reflect")
    repeated = g.add("Tile", g.add("Unsqueeze", last, g.integers(1)), g.integers(1, 3, 2))
    scaled = g.add("Mul", back, g.constant(weights(STEPS, 1)))
    shifted = g.add("Sub", g.add("Exp", x), g.constant(weights(CHANNELS, 1)))
    difference = g.add("Sub", back, g.add("Transpose", shifted, perm=[0, 2, 1]))
    layer = g.add("Add", g.add("MatMul", back, g.constant(weights(CHANNELS, 6))), g.constant(weights(6)))
    narrow = g.add("ReduceMean", x, g.integers(2), keepdims=1)
    wide = g.add("Mul", x, narrow)
    joined = g.add("Concat", x, wide, padded_to(g, padded), axis=1)
    norm = g.add(
        "BatchNormalization", x, *(g.constant(np.abs(weights(CHANNELS, seed=s)) + 0.2) for s in range(4))
    )
    parts = [
        part,
        last,
        some,
        padded,
        mirrored,
        repeated,
        scaled,
        shifted,
        difference,
        layer,
        wide,
        joined,
        norm,
    ]
    for op in ("ReduceSum", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2", "ReduceSumSquare"):
        parts.append(g.add(op, back, g.integers(1), keepdims=0))
        parts.append(g.add(op, x, g.integers(1), keepdims=1))
    flat = [g.add("Flatten", p) for p in parts]
    shape = g.add("Shape", x)
    steps = g.add("Gather", shape, g.integers(2), axis=0)
    sizes = g.add(
        "Concat", g.add("Slice", shape, g.integers(0), g.integers(1)), steps, g.integers(CHANNELS), axis=0
    )
    ones = g.add("Expand", g.constant(2.0), sizes)
    flat.append(g.add("Flatten", g.add("Mul", back, ones)))
    return g.add("Concat", *flat, axis=1)


def padded_to(g, padded):
    return g.add("Slice", padded, g.integers(0), g.integers(STEPS), g.integers(2))


@pytest.mark.usefixtures("isa")
def test_axes_beside_that_of_the_rows():
    g = Sequences()
    every = _axes(g)
    probe = g.add("Identity", every, output="probe")
    width = run(with_output(g, probe), rows(2), "probe").shape[1]
    model, projection = g.finish(every, width)
    scorer = load(model, dim=D)
    for count in BATCHES:
        x = rows(count, seed=count)
        np.testing.assert_allclose(scorer.reconstruct(x), run(model, x, "output"), rtol=2e-5, atol=2e-4)
    assert projection.shape == (width, D)


def with_output(g, name):
    inputs = [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", D])]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None)]
    constants = [numpy_helper.from_array(value, key) for key, value in g.constants.items()]
    graph = helper.make_graph(g.nodes, "g", inputs, outputs, constants)
    opsets = [helper.make_opsetid("", 18)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()
