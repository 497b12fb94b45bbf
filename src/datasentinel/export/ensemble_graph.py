"""The ONNX graph of the default detector.

Each function adds one part of `datasentinel.training.ensemble.Views` and returns the name of its result.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from datasentinel.export.builder import GraphBuilder
from datasentinel.export.contributions import add_shares
from datasentinel.export.mapping_graph import add_inverse_soft_clip, add_robust_map, add_soft_clip
from datasentinel.training.combine import LEAST_SHARE, SHARPNESS
from datasentinel.training.prototypes import RESOLUTION, TINY

if TYPE_CHECKING:
    from datasentinel.training.combine import Combination
    from datasentinel.training.denoiser import Denoiser
    from datasentinel.training.ensemble import Ensemble
    from datasentinel.training.prototypes import Prototypes
    from datasentinel.training.whitening import Whitening


def ensemble_graph(model: Ensemble) -> bytes:
    """Return the ONNX file of an ensemble; see `build_graph`."""
    views = model.views
    graph = GraphBuilder()
    clipped = add_soft_clip(graph, views.soft_clip)
    robust = add_robust_map(graph, views.robust_map)
    whitened = add_whitening(graph, views.whitening, robust)
    clipped_length = graph.add("ReduceSumSquare", [clipped, graph.features()], "clipped_length")
    whitened_length = graph.add("ReduceSumSquare", [whitened, graph.features()], "whitened_length")
    rebuilt = add_denoiser(graph, views.denoiser, clipped)
    residual = graph.add("Sub", [clipped, rebuilt], "residual")
    distances = [
        add_prototypes(graph, views.fine, "fine", clipped, clipped_length),
        add_prototypes(graph, views.fine_whitened, "fine_whitened", whitened, whitened_length),
        add_prototypes(graph, views.coarse, "coarse", clipped, clipped_length),
        add_prototypes(graph, views.coarse_whitened, "coarse_whitened", whitened, whitened_length),
        add_root_mean_square(graph, residual, "reconstruction"),
        add_root_mean_square(graph, robust, "marginal"),
    ]
    joined = graph.add("Concat", distances, "distances", {"axis": 1})
    add_combination(graph, model.combination, joined)
    add_inverse_soft_clip(graph, views.soft_clip, rebuilt)
    add_shares(graph, residual=residual, marginal=robust, output="contributions")
    return graph.finish("datasentinel_ensemble", model.input_dim)


def add_whitening(graph: GraphBuilder, part: Whitening, rows: str) -> str:
    """Add w, [batch, K]."""
    weight = graph.constant("whitening_weight", part.weight)
    return graph.add("Gemm", [rows, weight, graph.constant("whitening_bias", part.bias)], "whitened")


def add_prototypes(graph: GraphBuilder, part: Prototypes, name: str, rows: str, length: str) -> str:
    """Add the mean distance to the nearest prototypes, [batch, 1]; `length` is the rows' squared length."""
    if part.is_direct:
        squares = _add_smallest(graph, part, _add_squared_differences(graph, part, name, rows), name)
        least = graph.number(TINY)
    else:
        inputs = [
            rows,
            graph.constant(f"{name}_weight", part.weight),
            graph.constant(f"{name}_bias", part.bias),
        ]
        products = graph.add("Gemm", inputs, f"{name}_products")
        # The row's own length is the same for all prototypes: it is added to the few that are left.
        nearest = _add_smallest(graph, part, products, name)
        squares = graph.add("Add", [nearest, length], f"{name}_squares")
        rounding = graph.add("Mul", [length, graph.number(RESOLUTION)], f"{name}_rounding")
        least = graph.add("Add", [rounding, graph.number(TINY)], f"{name}_resolution")
    root = graph.add("Sqrt", [graph.add("Max", [squares, least], f"{name}_resolved")], f"{name}_root")
    if part.neighbours == 1:
        return root
    return graph.add("ReduceMean", [root, graph.features()], f"{name}_distance")


def _add_smallest(graph: GraphBuilder, part: Prototypes, values: str, name: str) -> str:
    if part.neighbours == 1:
        return graph.add("ReduceMin", [values, graph.features()], f"{name}_nearest")
    return graph.add_smallest(values, part.neighbours, f"{name}_nearest")


def _add_squared_differences(graph: GraphBuilder, part: Prototypes, name: str, rows: str) -> str:
    total = ""
    for i in range(part.centres.shape[1]):
        index = graph.constant(f"column_{i}", np.array([i]))
        column = graph.add("Gather", [rows, index], f"{name}_column_{i}", {"axis": 1})
        centres = graph.constant(f"{name}_centres_{i}", part.centres[None, :, i].copy())
        difference = graph.add("Sub", [column, centres], f"{name}_difference_{i}")
        square = graph.add("Mul", [difference, difference], f"{name}_square_{i}")
        total = graph.add("Add", [total, square], f"{name}_sum_{i}") if total else square
    return total


def add_denoiser(graph: GraphBuilder, part: Denoiser, rows: str) -> str:
    """Add y, [batch, D]."""
    x = rows
    for i, (weight, bias) in enumerate(zip(part.weights, part.biases, strict=True), start=1):
        inputs = [x, graph.constant(f"weight_{i}", weight), graph.constant(f"bias_{i}", bias)]
        x = graph.add("Gemm", inputs, f"dense_{i}")
        if i < len(part.weights):
            x = graph.add("Tanh", [x], f"activation_{i}")
    return x


def add_root_mean_square(graph: GraphBuilder, values: str, name: str) -> str:
    """Add the root of the mean square of each row, [batch, 1]."""
    squares = graph.add("Mul", [values, values], f"{name}_squares")
    mean = graph.add("ReduceMean", [squares, graph.features()], f"{name}_mean_square")
    return graph.add("Sqrt", [mean], f"{name}_distance")


def add_combination(graph: GraphBuilder, part: Combination, distances: str) -> str:
    """Add the soft maximum of the calibrated log distances, [batch], the graph's `score`."""
    inverse_typical = graph.constant("inverse_typical", part.inverse_typical)
    ratios = graph.add("Mul", [distances, inverse_typical], "ratios")
    floored = graph.add("Max", [ratios, graph.number(LEAST_SHARE)], "floored_ratios")
    logs = graph.add("Log", [floored], "log_ratios")
    z = graph.add("Mul", [logs, graph.constant("part_gain", part.gain)], "part_scores")
    greatest = graph.add("ReduceMax", [z, graph.features()], "greatest_part_score")
    below = graph.add("Sub", [z, greatest], "below_greatest")
    powers = graph.add(
        "Exp", [graph.add("Mul", [below, graph.number(SHARPNESS)], "sharpened")], "part_weights"
    )
    mean = graph.add("ReduceMean", [powers, graph.features()], "mean_part_weight")
    soft = graph.add(
        "Mul", [graph.add("Log", [mean], "log_mean_part_weight"), graph.number(1 / SHARPNESS)], "softening"
    )
    column = graph.add("Add", [greatest, soft], "score_column")
    return graph.add("Squeeze", [column, graph.features()], "score")
