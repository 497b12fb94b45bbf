"""A model in a lower precision: which layers change, and what that does to its scores.

Precision is a property of the graph, so that every runtime computes the same thing: fp16 layers carry fp16
weights, int8 layers are wrapped in QuantizeLinear and DequantizeLinear. Only the layers of a network change,
that is matrix products next to an activation. Scaling, distances and the score stay in float32: they take
differences of large numbers, of which few digits would be left.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from datasentinel.artifact import save_artifact
from datasentinel.errors import DataError, InvalidInputError, MissingDependencyError, UnsupportedModelError
from datasentinel.precisions import PRECISIONS
from datasentinel.quality import judge

if TYPE_CHECKING:
    import os

    from datasentinel.artifact import Artifact, Json
    from datasentinel.types import BoolArray, Float32Array

_LAYERS = frozenset({"Gemm", "MatMul"})
_ACTIVATIONS = frozenset(
    {
        "Relu",
        "LeakyRelu",
        "Elu",
        "Gelu",
        "Tanh",
        "Sigmoid",
        "HardSigmoid",
        "HardSwish",
        "Softplus",
        "Softsign",
    }
)
# MatMul's bias is an Add of its own, which stands between the product and the activation.
_BETWEEN = "Add"
_MOST_CALIBRATION_ROWS = 2048
# What onnxruntime's converter of models looks for.
_PRE_PROCESSED = "onnx.quant.pre_process"


@dataclass(frozen=True)
class PrecisionChange:
    """What a lower precision did to a model.

    Attributes
    ----------
    precision : str
        "fp16" or "int8".
    layers : int
        How many layers changed.
    rows : int
        How many rows were scored before and after.
    median_error, greatest_error : float
        Differences of scores, as shares of the interquartile range of the scores before.
    decisions_changed : float
        Share of rows that are decided differently at the same threshold.
    auroc_before, auroc_after : float or None
        None without labels of both kinds.
    bytes_before, bytes_after : int
        Sizes of the ONNX file.
    """

    precision: str
    layers: int
    rows: int
    median_error: float
    greatest_error: float
    decisions_changed: float
    auroc_before: float | None
    auroc_after: float | None
    bytes_before: int
    bytes_after: int

    def facts(self) -> dict[str, Json]:
        """Return what `config.json` keeps under the key "precision"."""
        return {
            "arithmetic": self.precision,
            "layers": self.layers,
            "rows": self.rows,
            "median_error": self.median_error,
            "greatest_error": self.greatest_error,
            "decisions_changed": self.decisions_changed,
            "auroc_before": self.auroc_before,
            "auroc_after": self.auroc_after,
        }


def network_layers(model: onnx.ModelProto) -> tuple[list[str], list[str]]:
    """Name the matrix products next to an activation, and what belongs to them.

    Returns
    -------
    layers : list of str
        Nodes that multiply by weights.
    rest : list of str
        The activations and the additions of a bias that belong to them.
    """
    producers = {output: node for node in model.graph.node for output in node.output}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)

    layers: dict[str, None] = {}
    rest: dict[str, None] = {}

    def take(node: onnx.NodeProto | None, between: onnx.NodeProto | None) -> None:
        if node is None or node.op_type not in _LAYERS:
            return
        layers[node.name] = None
        if between is not None:
            rest[between.name] = None

    for activation in (node for node in model.graph.node if node.op_type in _ACTIVATIONS):
        before = producers.get(activation.input[0])
        if before is not None and before.op_type == _BETWEEN:
            for name in before.input:
                take(producers.get(name), before)
        else:
            take(before, None)
        after = [node for node in readers.get(activation.output[0], []) if node.op_type in _LAYERS]
        for layer in after:
            additions = [node for node in readers.get(layer.output[0], []) if node.op_type == _BETWEEN]
            take(layer, additions[0] if len(additions) == 1 else None)
        if before is not None and after:
            rest[activation.name] = None
    return list(layers), list(rest)


def convert(onnx_bytes: bytes, precision: str, *, calibration_rows: Float32Array) -> tuple[bytes, int]:
    """Write a graph in another precision.

    Parameters
    ----------
    onnx_bytes : bytes
        A float32 graph.
    precision : {"fp16", "int8"}
    calibration_rows : ndarray of float32, shape [N, D]
        Normal rows in raw units; int8 takes the ranges of the layers' values from them.

    Returns
    -------
    onnx : bytes
        Inputs and outputs are float32 as before.
    layers : int
        How many layers changed.

    Raises
    ------
    UnsupportedModelError
        The graph has no layer next to an activation, has a memory, or is not float32.
    MissingDependencyError
        onnxruntime, whose converters do the work, is not installed.
    """
    model = onnx.load_model_from_string(onnx_bytes)
    if any(node.op_type in {"QuantizeLinear", "Cast"} for node in model.graph.node):
        raise UnsupportedModelError("the model is in a lower precision already; convert the float32 model")
    if len(model.graph.input) > 1:
        raise UnsupportedModelError(
            "the model has a memory, which is kept in float32: it has no network's layers to convert"
        )
    layers, rest = network_layers(model)
    if not layers:
        raise UnsupportedModelError(
            "the model has no layer next to an activation, so there is nothing to convert"
        )
    if precision == "fp16":
        converted = _to_fp16(model, {*layers, *rest})
    elif precision == "int8":
        converted = _to_int8(model, layers, calibration_rows)
    else:
        raise InvalidInputError(f"unknown precision '{precision}'; known: {', '.join(PRECISIONS)}")
    onnx.checker.check_model(converted, full_check=True)
    return converted.SerializeToString(), len(layers)


def change_precision(
    artifact: Artifact,
    precision: str,
    directory: str | os.PathLike[str],
    *,
    rows: Float32Array,
    labels: BoolArray | None = None,
) -> PrecisionChange:
    """Write an artifact in another precision and report what that did to its scores.

    Parameters
    ----------
    artifact : Artifact
        The float32 model.
    precision : {"fp16", "int8"}
    directory : path-like
        Where the new artifact goes; it may be where the old one is.
    rows : ndarray of float32, shape [N, D]
        Raw rows to compare the scores on; the normal ones among them calibrate int8.
    labels : ndarray of bool, shape [N], optional
        True for anomalies.

    Raises
    ------
    DataError
        There are no normal rows, or they do not have the model's width.
    UnsupportedModelError, MissingDependencyError
        As for `convert`.
    """
    config = artifact.config
    rows = np.ascontiguousarray(rows, dtype=np.float32)
    if rows.ndim != 2 or rows.shape[1] != config.input_dim:
        raise DataError(f"the rows have shape {list(rows.shape)}, expected [N, {config.input_dim}]")
    normal = rows if labels is None else rows[~labels]
    if not len(normal):
        raise DataError("there are no normal rows to calibrate with")
    step = -(-len(normal) // _MOST_CALIBRATION_ROWS)
    converted, layers = convert(artifact.onnx, precision, calibration_rows=normal[::step])

    before, after = _scores(artifact.onnx, rows), _scores(converted, rows)
    quartiles = np.percentile(before, [25, 75])
    error = np.abs(after - before) / max(float(quartiles[1] - quartiles[0]), float(np.finfo(np.float32).tiny))
    quality = [
        None if labels is None else judge(scores, labels, config.threshold) for scores in (before, after)
    ]
    change = PrecisionChange(
        precision=precision,
        layers=layers,
        rows=len(rows),
        median_error=float(np.median(error)),
        greatest_error=float(error.max()),
        decisions_changed=float(np.mean((before > config.threshold) != (after > config.threshold))),
        auroc_before=quality[0].auroc if quality[0] else None,
        auroc_after=quality[1].auroc if quality[1] else None,
        bytes_before=len(artifact.onnx),
        bytes_after=len(converted),
    )
    save_artifact(directory, converted, replace(config, extra={**config.extra, "precision": change.facts()}))
    return change


def _onnxruntime() -> Any:  # noqa: ANN401 - a module
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingDependencyError(
            "a lower precision needs onnxruntime's converters: pip install 'datasentinel[cpu]'"
        ) from error
    return onnxruntime


def _to_fp16(model: onnx.ModelProto, nodes: set[str]) -> onnx.ModelProto:
    # The converters of onnxruntime and onnxconverter-common cast the graph's input to fp16 first, even where
    # everything that reads it is to stay float32; raw units would overflow there.
    graph = model.graph
    constants = {constant.name: constant for constant in graph.initializer}
    inside = {name for node in graph.node if node.name in nodes for name in node.output}
    read_outside = {name for node in graph.node if node.name not in nodes for name in node.input}
    read_outside |= {output.name for output in graph.output}
    made: dict[str, str] = {}
    written: list[onnx.NodeProto] = []

    def as_fp16(name: str) -> str:
        if name not in made:
            made[name] = f"{name}_fp16"
            if name in constants:
                value = onnx.numpy_helper.to_array(constants[name])
                if not (np.abs(value) <= np.finfo(np.float16).max).all():
                    raise UnsupportedModelError(f"constant '{name}' leaves the range of fp16")
                half = onnx.numpy_helper.from_array(value.astype(np.float16), made[name])
                graph.initializer.append(half)
            else:
                written.append(_cast(name, made[name], onnx.TensorProto.FLOAT16))
        return made[name]

    for node in graph.node:
        if node.name in nodes:
            inputs = [f"{name}_fp16" if name in inside else as_fp16(name) for name in node.input]
            outputs = list(node.output)
            node.input[:] = inputs
            node.output[:] = [f"{name}_fp16" for name in outputs]
            written.append(node)
            written.extend(
                _cast(f"{name}_fp16", name, onnx.TensorProto.FLOAT)
                for name in outputs
                if name in read_outside
            )
        else:
            written.append(node)
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in written]
    del graph.node[:]
    graph.node.extend(copies)
    needed = {name for node in graph.node for name in node.input}
    kept = [constant for constant in graph.initializer if constant.name in needed]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    return model


def _cast(source: str, target: str, element: int) -> onnx.NodeProto:
    return onnx.helper.make_node("Cast", [source], [target], name=f"cast_{target}", to=element)


def _to_int8(model: onnx.ModelProto, layers: list[str], rows: Float32Array) -> onnx.ModelProto:
    _onnxruntime()
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Rows(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime is not typed
        def __init__(self) -> None:
            self._batches = iter([rows])

        def get_next(self) -> dict[str, Float32Array] | None:
            batch = next(self._batches, None)
            return None if batch is None else {model.graph.input[0].name: batch}

    # Pre-processing would fuse layers, which are to stay as they are; the mark spares the advice to run it.
    model.metadata_props.add(key=_PRE_PROCESSED, value="onnxruntime.quant")
    with tempfile.TemporaryDirectory(prefix="datasentinel-") as folder:
        target = Path(folder) / "model.onnx"
        quantize_static(
            model,
            target,
            Rows(),
            quant_format=QuantFormat.QDQ,
            nodes_to_quantize=layers,
            per_channel=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            # TensorRT takes symmetric scales only, and no quantised bias.
            extra_options={"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False},
        )
        converted = onnx.load_model(target)
    kept = [entry for entry in converted.metadata_props if entry.key != _PRE_PROCESSED]
    del converted.metadata_props[:]
    converted.metadata_props.extend(kept)
    return converted


def _scores(onnx_bytes: bytes, rows: Float32Array) -> Float32Array:
    runtime = _onnxruntime()
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    session = runtime.InferenceSession(onnx_bytes, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    if "score" in names:
        scores: Float32Array = session.run(["score"], {session.get_inputs()[0].name: rows})[0].reshape(-1)
        return scores
    output = session.run(["output"], {session.get_inputs()[0].name: rows})[0]
    mean: Float32Array = np.mean((rows - output) ** 2, axis=1, dtype=np.float32)
    return mean
