"""The ONNX graph of a detector, node by node.

The graph is built directly rather than traced: it is a short chain of well-known operators, each with a name
that says what it does, which every runtime and our own lowering can rely on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

    from datasentinel.training.network import DenseLayer
    from datasentinel.training.settings import Activation
    from datasentinel.training.standardise import Scaling

OPSET = 18
# The oldest file format that may carry opset 18, for the sake of older readers.
_IR_VERSION = 8

_OPERATORS: dict[Activation, str] = {
    "relu": "Relu",
    "leaky_relu": "LeakyRelu",
    "elu": "Elu",
    "tanh": "Tanh",
    "sigmoid": "Sigmoid",
}


def build_graph(scaling: Scaling, layers: Sequence[DenseLayer]) -> bytes:
    """Return the ONNX file of a detector.

    Input `input` float32 [batch, D] in raw units. Outputs `score` float32 [batch], the mean over the features
    of the squared standardised residual, `output` float32 [batch, D], the reconstruction in raw units, and
    `contributions` float32 [batch, D], the features' terms of the score, which add up to it.

    Parameters
    ----------
    scaling : Scaling
        From raw to standardised rows.
    layers : sequence of DenseLayer
        From standardised rows to their reconstruction.
    """
    graph = _Graph()
    standardised = graph.add(
        "Mul",
        [graph.add("Sub", ["input", graph.constant("shift", scaling.shift)], "centred"), "inverse_scale"],
        "standardised",
    )
    graph.constant("inverse_scale", scaling.inverse_scale)
    x = standardised
    for i, layer in enumerate(layers, start=1):
        weight = graph.constant(f"weight_{i}", layer.weight)
        bias = graph.constant(f"bias_{i}", layer.bias)
        x = graph.add("Gemm", [x, weight, bias], f"dense_{i}", {"transB": 1})
        if layer.activation == "leaky_relu":
            x = graph.add("LeakyRelu", [x], f"activation_{i}", {"alpha": 0.01})
        elif layer.activation != "identity":
            x = graph.add(_OPERATORS[layer.activation], [x], f"activation_{i}")
    scaled = graph.add("Mul", [x, graph.constant("scale", scaling.scale)], "rescaled")
    graph.add("Add", [scaled, "shift"], "output")
    residual = graph.add("Sub", [standardised, x], "residual")
    squared = graph.add("Mul", [residual, residual], "squared_residual")
    graph.add(
        "ReduceMean", [squared, graph.constant("feature_axis", np.array([1]))], "score", {"keepdims": 0}
    )
    width = len(scaling.shift)
    graph.add(
        "Mul", [squared, graph.constant("share", np.array([1 / width], dtype=np.float32))], "contributions"
    )

    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "datasentinel_autoencoder",
            [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", width])],
            [
                helper.make_tensor_value_info("score", TensorProto.FLOAT, ["batch"]),
                helper.make_tensor_value_info("output", TensorProto.FLOAT, ["batch", width]),
                helper.make_tensor_value_info("contributions", TensorProto.FLOAT, ["batch", width]),
            ],
            graph.constants,
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=_IR_VERSION,
        producer_name="datasentinel",
    )
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


class _Graph:
    """Nodes and constants in the order in which they were added; a node is named after what it computes."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def constant(self, name: str, value: npt.NDArray[np.generic]) -> str:
        self.constants.append(numpy_helper.from_array(value, name))
        return name

    def add(
        self, operator: str, inputs: Sequence[str], output: str, attributes: Mapping[str, float] | None = None
    ) -> str:
        node = helper.make_node(operator, inputs, [output], name=output)
        node.attribute.extend(helper.make_attribute(key, value) for key, value in (attributes or {}).items())
        self.nodes.append(node)
        return output
