"""Models with quantised layers (Q/DQ) on the fused backend, beside ONNX Runtime on the same graph."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from datasentinel import Detector
from datasentinel.errors import UnsupportedModelError
from datasentinel.export.precision import convert
from tests.networks import Network, write_artifact
from tests.parity.conftest import supported
from tests.parity.fused_scorer import load
from tests.parity.test_batch_invariance import BATCHES, assert_same_in_every_batch, table

SHAPES = [(64, 128, 64, 16, 64, 128, 64), (33, 50, 20, 33), (8, 6, 3, 6, 8)]


@pytest.fixture(params=["amx", "avx512", "avx2", "portable"])
def isa(request, monkeypatch):
    if not supported(request.param):
        pytest.skip(f"this processor has no {request.param}")
    monkeypatch.setenv("DATASENTINEL_ISA", request.param)
    return request.param


@pytest.fixture(scope="module")
def quantized():
    """Networks as `export --precision int8` writes them, each with rows."""
    models = {}
    for dims in SHAPES:
        network = Network.random(dims)
        rows = (network.mean + network.scale * table(300, dims[0])).astype(np.float32)
        models[dims] = convert(network.to_onnx(), "int8", calibration_rows=rows)[0], rows
    return models


def onnxruntime_scores(model, rows, outputs=("score",)):
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return session.run(list(outputs), {"input": rows})


@pytest.mark.parametrize("dims", SHAPES)
def test_scores_are_those_of_onnxruntime(isa, quantized, dims):
    model, rows = quantized[dims]
    expected = onnxruntime_scores(model, rows)[0]
    scores = load(model, dim=dims[0]).score(rows)
    # A value in the middle between two whole numbers may go to the other one.
    error = np.abs(scores - expected) / expected
    assert np.median(error) < 1e-6
    assert error.max() < 0.05


@pytest.mark.parametrize("dims", SHAPES)
def test_a_row_has_the_same_bits_in_every_batch(isa, quantized, dims):
    model, rows = quantized[dims]
    assert_same_in_every_batch(model, rows[:150], BATCHES)


def layer(inputs, outputs, *, x_type, x_zero_point, weight_type=np.int8, weight_zero_point=0, seed=0):
    """A graph of one quantised layer, whose rows are multiples of its scale and whose scales are powers of two:
    everything is exact."""
    random = np.random.default_rng([seed, inputs, outputs])
    limits = np.iinfo(weight_type)
    constants = {
        "x_scale": np.float32(0.125),
        "x_zero": np.array(x_zero_point, x_type),
        "w": random.integers(limits.min, limits.max, (inputs, outputs), weight_type, endpoint=True),
        "w_scale": np.exp2(random.integers(-9, -4, outputs)).astype(np.float32),
        "w_zero": np.full(outputs, weight_zero_point, weight_type),
        "bias": random.integers(-50, 50, outputs).astype(np.float32),
        "axes": np.array([1], np.int64),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["input", "x_scale", "x_zero"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "x_scale", "x_zero"], ["x"]),
        helper.make_node("DequantizeLinear", ["w", "w_scale", "w_zero"], ["wd"], axis=-1),
        helper.make_node("Gemm", ["x", "wd", "bias"], ["y"]),
        helper.make_node("Relu", ["y"], ["positive"]),
        helper.make_node("ReduceMax", ["positive", "axes"], ["score"], keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "layer",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", inputs])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["batch"])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    # From below the lowest number that is told apart to above the highest.
    rows = random.integers(-200, 200, (70, inputs)).astype(np.float32) * np.float32(0.125)
    return model.SerializeToString(), rows


@pytest.mark.parametrize("zero_point", [0, 3, -128])
@pytest.mark.parametrize("widths", [(16, 8), (67, 35), (300, 130)])
def test_sums_in_whole_numbers_are_exact(isa, widths, zero_point):
    model, rows = layer(*widths, x_type=np.int8, x_zero_point=zero_point)
    expected = ReferenceEvaluator(model).run(["score"], {"input": rows})[0]
    scorer = load(model, dim=widths[0])
    np.testing.assert_array_equal(scorer.score(rows), expected)
    np.testing.assert_array_equal([scorer.score(row[np.newaxis])[0] for row in rows[:3]], expected[:3])


@pytest.mark.parametrize(
    ("x_zero_point", "weight_type", "weight_zero_point"), [(128, np.int8, 0), (0, np.uint8, 128)]
)
def test_unsigned_numbers(isa, x_zero_point, weight_type, weight_zero_point):
    model, rows = layer(
        40,
        20,
        x_type=np.uint8,
        x_zero_point=x_zero_point,
        weight_type=weight_type,
        weight_zero_point=weight_zero_point,
    )
    expected = ReferenceEvaluator(model).run(["score"], {"input": rows})[0]
    np.testing.assert_array_equal(load(model, dim=40).score(rows), expected)


def test_halves_are_rounded_to_even_as_after_a_division(isa):
    scale = np.float32(0.1)  # whose reciprocal in float32 is not exact
    nodes = [
        helper.make_node("QuantizeLinear", ["input", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["score2"]),
        helper.make_node("Squeeze", ["score2", "axes"], ["score"]),
    ]
    graph = helper.make_graph(
        nodes,
        "rounding",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 1])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["batch"])],
        [
            numpy_helper.from_array(np.asarray(scale), "scale"),
            numpy_helper.from_array(np.array(0, np.int8), "zero"),
            numpy_helper.from_array(np.array([1], np.int64), "axes"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    middles = (np.arange(-140, 140, dtype=np.float32) + np.float32(0.5)) * scale
    rows = np.concatenate([middles, np.nextafter(middles, np.inf), np.nextafter(middles, -np.inf)])
    rows = np.concatenate([rows, [3e38, -3e38, 0]]).astype(np.float32)[:, np.newaxis]
    with np.errstate(over="ignore"):
        expected = np.clip(np.round(rows[:, 0] / scale), -128, 127) * scale
    np.testing.assert_array_equal(load(model.SerializeToString(), dim=1).score(rows), expected)


def test_what_is_in_int8_is_said(tmp_path, quantized, monkeypatch):
    monkeypatch.delenv("DATASENTINEL_ISA", raising=False)
    model, _ = quantized[SHAPES[0]]
    write_artifact(tmp_path, model, input_dim=64, threshold=1.0)
    precision = Detector.load(tmp_path, backend="fused").info()["facts"]["precision"]
    assert precision == "float32" or precision.endswith("in 6 of 6 matrix products, float32 elsewhere")


def test_other_numbers_are_refused(tmp_path):
    model = onnx.load_model_from_string(layer(16, 8, x_type=np.int8, x_zero_point=0)[0])
    for constant in model.graph.initializer:
        if constant.name == "x_zero":
            constant.CopyFrom(numpy_helper.from_array(np.array(0, np.int16), "x_zero"))
    with pytest.raises(UnsupportedModelError, match="int8 and uint8, not int16"):
        load(model.SerializeToString(), dim=16)
