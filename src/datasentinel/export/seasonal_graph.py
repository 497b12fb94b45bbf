"""The season as a part of an ONNX graph, before and behind the graph of another detector."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import numpy_helper

from datasentinel.export.builder import GraphBuilder
from datasentinel.training.season import LEAD, RAMP

if TYPE_CHECKING:
    from datasentinel.training.season import Season

# Tensors of the inner graph that get another meaning around it, and the prefix that they get.
_INNER = ("input", "output", "contributions")
_PREFIX = "deseasoned_"


def add_season(onnx_file: bytes, season: Season) -> bytes:
    """Return the graph of a detector of raw rows [batch, D + 1] whose last column is the second of the week.

    Parameters
    ----------
    onnx_file : bytes
        The graph of a detector of rows [batch, D] without their season.
    season : Season
    """
    inner = onnx.load_model_from_string(onnx_file).graph
    width = len(season.typical)
    graph = GraphBuilder()
    rows = _columns(graph, "input", 0, width, "season_rows")
    time = _columns(graph, "input", width, width + 1, "season_time")
    slots = len(season.baseline)
    # Differences of seconds are exact in float32; the number of a slot would not be.
    middles = season.slot_s * (np.arange(slots) + 0.5 - LEAD)
    ones = graph.constant("season_ones", np.ones((1, slots), np.float32))
    repeated = graph.add("MatMul", [time, ones], "season_times")
    beside_middle = graph.add(
        "Sub", [repeated, graph.constant("season_middles", middles.astype(np.float32))], "season_offsets"
    )
    distance = graph.add("Abs", [beside_middle], "season_distance")
    near = graph.add("Sub", [graph.number((0.5 + RAMP) * season.slot_s), distance], "season_nearness")
    steep = graph.add("Mul", [near, graph.number(1 / (2 * RAMP * season.slot_s))], "season_steep")
    weights = graph.add("Clip", [steep, graph.number(0), graph.number(1)], "season_weights")
    baselines = graph.constant("season_baselines", season.baseline)
    gains = graph.constant("season_gains", season.gain)
    baseline = graph.add("MatMul", [weights, baselines], "season_baseline")
    gain = graph.add("MatMul", [weights, gains], "season_gain")
    typical = graph.constant("season_typical", season.typical)
    beside = graph.add("Mul", [graph.add("Sub", [rows, baseline], "season_beside"), gain], "season_scaled")
    graph.add("Add", [beside, typical], f"{_PREFIX}input")

    for node in inner.node:
        for names in (node.input, node.output):
            names[:] = [_PREFIX + name if name in _INNER else name for name in names]
        if node.name in _INNER:
            node.name = _PREFIX + node.name
        graph.nodes.append(node)
    for tensor in inner.initializer:
        graph.constant(tensor.name, numpy_helper.to_array(tensor))

    back = graph.add("Sub", [f"{_PREFIX}output", typical], "season_rebuilt_beside")
    unscaled = graph.add("Div", [back, gain], "season_rebuilt_unscaled")
    rebuilt = graph.add("Add", [unscaled, baseline], "season_rebuilt")
    graph.add("Concat", [rebuilt, time], "output", {"axis": 1})
    nothing = graph.add("Mul", [time, graph.number(0)], "season_nothing")
    graph.add("Concat", [f"{_PREFIX}contributions", nothing], "contributions", {"axis": 1})
    state = next((v.type.tensor_type.shape.dim[1].dim_value for v in inner.input if v.name == "state"), 0)
    return graph.finish(f"{inner.name}_seasonal", width + 1, state=state)


def _columns(graph: GraphBuilder, values: str, first: int, end: int, name: str) -> str:
    bounds = [graph.constant(f"season_{bound}", np.array([bound])) for bound in (first, end)]
    return graph.add("Slice", [values, *bounds, graph.features()], name)
