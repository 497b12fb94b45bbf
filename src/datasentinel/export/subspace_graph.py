"""The ONNX graph of the detector for recordings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from datasentinel.export.builder import GraphBuilder
from datasentinel.export.contributions import add_shares
from datasentinel.export.mapping_graph import add_inverse_soft_clip, add_robust_map, add_soft_clip

if TYPE_CHECKING:
    from datasentinel.training.subspace import Subspace


@dataclass(frozen=True)
class SubspaceNodes:
    """Names of what a subspace computes: its score [batch, 1], shares and projection u' [batch, D]."""

    score: str
    shares: str
    projection: str


def subspace_graph(model: Subspace) -> bytes:
    """Return the ONNX file of a subspace; see `build_graph`. Its contributions add up to the score."""
    graph = GraphBuilder()
    nodes = add_subspace(graph, model)
    graph.add("Squeeze", [nodes.score, graph.features()], "score")
    graph.add("Mul", [nodes.shares, nodes.score], "contributions")
    add_inverse_soft_clip(graph, model.soft_clip, nodes.projection)
    return graph.finish("datasentinel_subspace", model.input_dim)


def add_subspace(graph: GraphBuilder, model: Subspace, *, prefix: str = "") -> SubspaceNodes:
    """Add a subspace of the graph's input; the names of its nodes and constants begin with `prefix`."""
    clipped = add_soft_clip(graph, model.soft_clip, prefix=prefix)
    to_components = graph.constant(f"{prefix}to_components", np.ascontiguousarray(model.directions.T))
    components = graph.add(
        "Gemm",
        [clipped, to_components, graph.constant(f"{prefix}encoder_bias", model.encoder_bias)],
        f"{prefix}components",
    )
    directions = graph.constant(f"{prefix}directions", model.directions)
    mean = graph.constant(f"{prefix}mean", model.mean)
    projection = graph.add("Gemm", [components, directions, mean], f"{prefix}rebuilt")
    residual = graph.add("Sub", [clipped, projection], f"{prefix}residual")
    weighted = graph.add(
        "Mul",
        [residual, graph.constant(f"{prefix}residual_gain", model.residual_gain)],
        f"{prefix}weighted_residual",
    )
    whitened = graph.add(
        "Mul",
        [components, graph.constant(f"{prefix}component_gain", model.component_gain)],
        f"{prefix}whitened_components",
    )
    beside = add_mean_square(graph, weighted, f"{prefix}beside")
    within = add_mean_square(graph, whitened, f"{prefix}within")
    alone = _add_alone(graph, model, clipped, f"{prefix}alone")
    together = graph.add("Max", [beside, within], f"{prefix}together")
    score = graph.add("Max", [together, alone], f"{prefix}score_column")
    robust = add_robust_map(graph, model.robust_map, f"{prefix}robust")
    shares = add_shares(graph, residual=weighted, marginal=robust, output=f"{prefix}shares")
    return SubspaceNodes(score, shares, projection)


def _add_alone(graph: GraphBuilder, model: Subspace, clipped: str, name: str) -> str:
    """Add how far the column is out of its range that is furthest, [batch, 1]."""
    size = graph.add("Abs", [clipped], f"{name}_size")
    beyond = graph.add("Sub", [size, graph.constant(f"{name}_reach", model.reach)], f"{name}_beyond")
    scaled = graph.add("Mul", [beyond, graph.constant(f"{name}_gain", model.range_gain)], f"{name}_scaled")
    furthest = graph.add("ReduceMax", [scaled, graph.features()], f"{name}_furthest")
    excess = graph.add("Max", [furthest, graph.number(0)], f"{name}_excess")
    return graph.add("Mul", [excess, excess], name)


def add_mean_square(graph: GraphBuilder, values: str, name: str) -> str:
    """Add the mean square of the columns, [batch, 1]."""
    squares = graph.add("Mul", [values, values], f"{name}_squares")
    return graph.add("ReduceMean", [squares, graph.features()], name)
