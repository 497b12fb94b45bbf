"""The ONNX graph of a plain autoencoder."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from datasentinel.export.builder import GraphBuilder

if TYPE_CHECKING:
    from collections.abc import Sequence

    from datasentinel.training.network import DenseLayer
    from datasentinel.training.settings import Activation
    from datasentinel.training.standardise import Scaling

_OPERATORS: dict[Activation, str] = {
    "relu": "Relu",
    "leaky_relu": "LeakyRelu",
    "elu": "Elu",
    "tanh": "Tanh",
    "sigmoid": "Sigmoid",
}


def autoencoder_graph(scaling: Scaling, layers: Sequence[DenseLayer]) -> bytes:
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
    graph = GraphBuilder()
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
    graph.add("ReduceMean", [squared, graph.features()], "score", {"keepdims": 0})
    share = graph.constant("share", np.array([1 / len(scaling.shift)], dtype=np.float32))
    graph.add("Mul", [squared, share], "contributions")
    return graph.finish("datasentinel_autoencoder", len(scaling.shift))
