"""The ONNX graph of the detector for recordings."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from datasentinel.export.builder import GraphBuilder
from datasentinel.export.contributions import add_shares
from datasentinel.export.mapping_graph import add_inverse_soft_clip, add_robust_map, add_soft_clip

if TYPE_CHECKING:
    from datasentinel.training.subspace import Subspace


def subspace_graph(model: Subspace) -> bytes:
    """Return the ONNX file of a subspace; see `build_graph`. Its contributions add up to the score."""
    graph = GraphBuilder()
    clipped = add_soft_clip(graph, model.soft_clip)
    to_components = graph.constant("to_components", np.ascontiguousarray(model.directions.T))
    components = graph.add(
        "Gemm", [clipped, to_components, graph.constant("encoder_bias", model.encoder_bias)], "components"
    )
    directions = graph.constant("directions", model.directions)
    rebuilt = graph.add("Gemm", [components, directions, graph.constant("mean", model.mean)], "rebuilt")
    residual = graph.add("Sub", [clipped, rebuilt], "residual")
    weighted = graph.add(
        "Mul", [residual, graph.constant("residual_gain", model.residual_gain)], "weighted_residual"
    )
    whitened = graph.add(
        "Mul", [components, graph.constant("component_gain", model.component_gain)], "whitened_components"
    )
    beside, within = (_mean_square(graph, weighted, "beside"), _mean_square(graph, whitened, "within"))
    column = graph.add("Max", [beside, within], "score_column")
    graph.add("Squeeze", [column, graph.features()], "score")
    robust = add_robust_map(graph, model.robust_map, "robust")
    shares = add_shares(graph, residual=weighted, marginal=robust)
    graph.add("Mul", [shares, column], "contributions")
    add_inverse_soft_clip(graph, model.soft_clip, rebuilt)
    return graph.finish("datasentinel_subspace", model.input_dim)


def _mean_square(graph: GraphBuilder, values: str, name: str) -> str:
    squares = graph.add("Mul", [values, values], f"{name}_squares")
    return graph.add("ReduceMean", [squares, graph.features()], name)
