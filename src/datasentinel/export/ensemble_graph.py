"""The ONNX graph of the default detector.

Each function adds one part of `datasentinel.training.ensemble.Views` and returns the name of its result.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from datasentinel.export.builder import GraphBuilder
from datasentinel.export.contributions import add_shares
from datasentinel.export.mapping_graph import add_inverse_soft_clip, add_robust_map, add_soft_clip
from datasentinel.training.combine import SHARPNESS
from datasentinel.training.prototypes import TINY

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
    robust = add_robust_map(graph, views.robust_map, "robust")
    wide = add_robust_map(graph, views.wide_map, "wide")
    rebuilt = add_denoiser(graph, views.denoiser, clipped)
    residual = graph.add("Sub", [clipped, rebuilt], "residual")
    distances = [
        *add_prototypes(graph, views.wide_prototypes, "wide_prototypes", wide),
        *add_prototypes(graph, views.prototypes, "prototypes", robust),
        *add_prototypes(
            graph, views.whitened_prototypes, "whitened", add_whitening(graph, views.whitening, robust)
        ),
        add_root_mean_square(graph, residual, "reconstruction"),
        add_root_mean_square(graph, robust, "marginal"),
        graph.add("ReduceMax", [graph.add("Abs", [clipped], "clipped_size"), graph.features()], "greatest"),
    ]
    joined = graph.add("Concat", [distances[i] for i in model.kept], "distances", {"axis": 1})
    add_combination(graph, model.combination, joined)
    add_inverse_soft_clip(graph, views.soft_clip, rebuilt)
    add_shares(graph, residual=residual, marginal=robust, output="contributions")
    return graph.finish("datasentinel_ensemble", model.input_dim)


def add_whitening(graph: GraphBuilder, part: Whitening, rows: str) -> str:
    """Add w, [batch, D]."""
    weight = graph.constant("whitening_weight", part.weight)
    return graph.add("Gemm", [rows, weight, graph.constant("whitening_bias", part.bias)], "whitened")


def add_prototypes(graph: GraphBuilder, part: Prototypes, name: str, rows: str) -> list[str]:
    """Add the mean distance to the nearest prototypes on each scale, all [batch, 1]."""
    if part.is_direct:
        differences = _add_squared_differences(graph, part, name, rows)
        gain = graph.constant(f"{name}_gain", part.gains[:1])
        squares = graph.add("Mul", [differences, gain], f"{name}_squares")
        length = ""
    else:
        length = graph.add("ReduceSumSquare", [rows, graph.features()], f"{name}_length")
        # With its own length as one more column the whole square is one matrix product.
        inputs = [
            graph.add("Concat", [rows, length], f"{name}_with_length", {"axis": 1}),
            graph.constant(f"{name}_weight", part.weight),
            graph.constant(f"{name}_bias", part.bias),
        ]
        squares = graph.add("Gemm", inputs, f"{name}_squares")
    scaled = [squares]
    for i, ratio in enumerate(part.ratios, start=1):
        by = graph.constant(f"{name}_ratio_{i}", ratio[None])
        scaled.append(graph.add("Mul", [squares, by], f"{name}_squares_{i}"))
    return [
        _add_mean_of_nearest(
            graph, part, f"{name}_{i}", squares=values, length=length, rounding=float(part.rounding[i])
        )
        for i, values in enumerate(scaled)
    ]


def _add_mean_of_nearest(
    graph: GraphBuilder, part: Prototypes, name: str, *, squares: str, length: str, rounding: float
) -> str:
    nearest = graph.add_smallest(squares, part.neighbours, f"{name}_nearest")
    least = graph.number(TINY)
    if length:
        share = graph.add("Mul", [length, graph.number(rounding)], f"{name}_rounding")
        least = graph.add("Add", [share, least], f"{name}_resolution")
    root = graph.add("Sqrt", [graph.add("Max", [nearest, least], f"{name}_resolved")], f"{name}_root")
    return graph.add("ReduceMean", [root, graph.features()], f"{name}_distance")


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
    """Add the positive soft maximum of the calibrated log distances, [batch], the graph's `score`."""
    inverse_resolution = graph.constant("inverse_resolution", part.inverse_resolution)
    ratios = graph.add("Mul", [distances, inverse_resolution], "ratios")
    logs = graph.add("Log", [graph.add("Max", [ratios, graph.number(1)], "resolved_ratios")], "log_ratios")
    gained = graph.add("Mul", [logs, graph.constant("part_gain", part.gain)], "log_ratios_gained")
    z = graph.add("Add", [gained, graph.constant("least_part_score", part.least)], "part_scores")
    greatest = graph.add("ReduceMax", [z, graph.features()], "greatest_part_score")
    below = graph.add("Sub", [z, greatest], "below_greatest")
    powers = graph.add(
        "Exp", [graph.add("Mul", [below, graph.number(SHARPNESS)], "sharpened")], "part_weights"
    )
    mean = graph.add("ReduceMean", [powers, graph.features()], "mean_part_weight")
    soft = graph.add(
        "Mul", [graph.add("Log", [mean], "log_mean_part_weight"), graph.number(1 / SHARPNESS)], "softening"
    )
    soft_maximum = graph.add("Add", [greatest, soft], "soft_maximum")
    normal = graph.add("Min", [soft_maximum, graph.number(0)], "normal_side")
    strange = graph.add("Max", [soft_maximum, graph.number(0)], "strange_side")
    column = graph.add("Add", [graph.add("Exp", [normal], "normal_score"), strange], "score_column")
    return graph.add("Squeeze", [column, graph.features()], "score")
