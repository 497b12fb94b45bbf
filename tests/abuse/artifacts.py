"""Artifacts that nobody should serve."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from tests.networks import write_artifact

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    import onnx

D = 8
_AXIS = numpy_helper.from_array(np.array([1], np.int64), "axis")


def graph(
    nodes: Iterable[onnx.NodeProto], constants: Iterable[onnx.TensorProto] = (), *, width: int = D
) -> bytes:
    """A model whose last node is still to reduce "x" to the score; `axis` is there."""
    score = helper.make_node("ReduceMean", ["x", "axis"], ["score"], keepdims=0)
    made = helper.make_graph(
        [*nodes, score],
        "hostile",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", width])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["batch"])],
        [_AXIS, *constants],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)])
    model.ir_version = 10
    return model.SerializeToString()


def missing_input(op: str = "Abs") -> bytes:
    """A node that lacks what it computes from."""
    return graph([helper.make_node(op, [], ["x"])])


def endless_loop() -> bytes:
    """A graph that is sound and computes for ever."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["go_on"]), helper.make_node("Identity", ["v"], ["w"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("w", TensorProto.FLOAT, None),
        ],
    )
    constants = [
        numpy_helper.from_array(np.array(True), "yes"),
        numpy_helper.from_array(np.array(2**62, np.int64), "count"),
    ]
    return graph([helper.make_node("Loop", ["count", "yes", "input"], ["x"], body=body)], constants)


def sound() -> bytes:
    return graph([helper.make_node("Abs", ["input"], ["x"])])


def put(folder: Path, onnx_bytes: bytes, **config: object) -> Path:
    """Write an artifact and move it to its place in one step."""
    hidden = folder.parent.parent / f".{folder.parent.name}-{folder.name}"
    write_artifact(hidden, onnx_bytes, **({"input_dim": D, "threshold": 1.0} | config))
    folder.parent.mkdir(parents=True, exist_ok=True)
    return hidden.rename(folder)


def put_raw(folder: Path, config: bytes) -> Path:
    """The same with a `config.json` of any bytes."""
    hidden = folder.parent.parent / f".{folder.parent.name}-{folder.name}"
    hidden.mkdir(parents=True)
    (hidden / "model.onnx").write_bytes(sound())
    (hidden / "config.json").write_bytes(config)
    folder.parent.mkdir(parents=True, exist_ok=True)
    return hidden.rename(folder)


def config(**changes: object) -> bytes:
    whole = {"input_dim": D, "output_dim": D, "latent_dim": 3, "threshold": 1.0}
    return json.dumps(whole | changes).encode()
