"""The ONNX graph of the detector with memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from datasentinel.export.builder import GraphBuilder
from datasentinel.export.mapping_graph import add_inverse_soft_clip, add_soft_clip
from datasentinel.export.subspace_graph import add_mean_square, add_subspace
from datasentinel.training.attribution import SMALLEST_SQUARE
from datasentinel.training.context import MOST_VARIABILITY
from datasentinel.training.memory import keep_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from datasentinel.training.context import ContextModel, ContextView
    from datasentinel.training.stability import Spread
    from datasentinel.types import FloatArray


def context_graph(model: ContextModel) -> bytes:
    """Return the ONNX file of a context model; see `build_graph`.

    It takes a second input `state` [batch, S] and has a fourth output `state_next`: see `Memory`.
    """
    graph = GraphBuilder()
    u = add_soft_clip(graph, model.soft_clip)
    differences, deviations = _add_memory(graph, model, u)
    columns, shares = [], []
    rebuilt = ""
    first = 0
    for i, (view, spread) in enumerate(zip(model.views, model.view_spreads, strict=True)):
        name = f"view_{i}"
        width = model.input_dim * len(view.half_lives)
        picked = [
            _columns(graph, values, first, first + width, f"{name}_{kind}", whole=len(model.views) == 1)
            for values, kind in ((differences, "differences"), (deviations, "deviations"))
        ]
        first += width
        score, residual = _add_view(graph, view, [u, *picked], name)
        columns.append(_add_log_ratio(graph, score, spread, name))
        shares.append(_add_shares(graph, residual, view, model.input_dim, name))
        rebuilt = rebuilt or _add_rebuilt(graph, u, residual, view, model.input_dim)
    if model.rows is not None and model.row_spread is not None:
        of_rows = add_subspace(graph, model.rows, prefix="rows_")
        columns.append(_add_log_ratio(graph, of_rows.score, model.row_spread, "rows"))
        shares.append(of_rows.shares)
    log = _add_mean(graph, columns, "log_score")
    score_column = graph.add("Exp", [log], "score_column")
    graph.add("Squeeze", [score_column, graph.features()], "score")
    graph.add("Mul", [_add_mean(graph, shares, "feature_shares"), score_column], "contributions")
    add_inverse_soft_clip(graph, model.soft_clip, rebuilt)
    return graph.finish("datasentinel_context", model.input_dim, state=model.memory.size)


def _add_memory(graph: GraphBuilder, model: ContextModel, u: str) -> tuple[str, str]:
    """Add `state_next`; return u - m and sqrt(r) for all half-lives side by side, [batch, H D]."""
    memory = model.memory
    width = memory.width * len(memory.half_lives)
    averages = _columns(graph, "state", 0, width, "averages")
    variability = _columns(graph, "state", width, 2 * width, "variability")
    seen = _columns(graph, "state", memory.size - 1, memory.size, "rows_seen")

    # The first row of a stream is its own average, and its variability is the usual one.
    is_first = graph.add("Relu", [graph.add("Sub", [graph.number(1), seen], "none_seen")], "is_first")
    fading = _add_timed_fading if memory.row_s is not None else _add_fading
    kept, feed = fading(graph, model, is_first)
    repeated = graph.add("Concat", [u] * len(memory.half_lives), "u_by_half_life", {"axis": 1})
    innovation = graph.add("Sub", [repeated, averages], "innovation")
    differences = graph.add("Mul", [innovation, kept], "differences")
    averages_next = graph.add("Sub", [repeated, differences], "averages_next")

    squares = graph.add("Mul", [differences, differences], "squared_differences")
    fed = graph.add("Mul", [squares, feed], "fed_variability")
    faded = graph.add("Mul", [variability, "keep"], "faded_variability")
    begun = graph.add("Sub", ["keep", kept], "begun_variability")
    variability_next = graph.add(
        "Add", [graph.add("Add", [faded, fed], "continued_variability"), begun], "variability_next"
    )
    most = graph.number(MOST_VARIABILITY**2)
    bounded = graph.add("Min", [variability_next, most], "bounded_variability")
    deviations = graph.add("Sqrt", [bounded], "deviations")

    seen_next = graph.add("Add", [seen, graph.number(1)], "rows_seen_next")
    steps: list[str] = []
    if memory.row_s is not None:
        seen_next = graph.add("Add", [seen_next, "extra_steps"], "steps_seen_next")
        steps = [graph.add("Mul", ["extra_steps", graph.number(0)], "no_extra_steps")]
    graph.add("Concat", [averages_next, variability_next, *steps, seen_next], "state_next", {"axis": 1})
    return differences, deviations


def _add_fading(graph: GraphBuilder, model: ContextModel, is_first: str) -> tuple[str, str]:
    """Add `keep` and what averages keep, [batch, H D]: none at first; return that, and what squares count."""
    keep, usual = _by_half_life(model, keep_of), _usual(model)
    kept = graph.add(
        "Gemm",
        [
            is_first,
            graph.constant("forgotten_at_first", _float32(-keep)[np.newaxis]),
            graph.constant("keep", _float32(keep)),
        ],
        "kept",
    )
    return kept, graph.constant("feed", _float32((1 - keep) / usual))


def _add_timed_fading(graph: GraphBuilder, model: ContextModel, is_first: str) -> tuple[str, str]:
    """Add the same where `keep` depends on how much later than usual the row is."""
    size = model.memory.size
    extra_steps = _columns(graph, "state", size - 2, size - 1, "extra_steps")
    rates = _float32(_by_half_life(model, lambda half_life: -np.log(2) / half_life))
    log_keep = graph.add(
        "Gemm",
        [
            extra_steps,
            graph.constant("log_keep_a_step", rates[np.newaxis]),
            graph.constant("log_keep_of_usual_step", rates),
        ],
        "log_keep",
    )
    keep = graph.add("Exp", [log_keep], "keep")
    is_later = graph.add(
        "Gemm",
        [
            is_first,
            graph.constant("minus_one", np.full((1, len(rates)), -1, np.float32)),
            graph.constant("one", np.ones(len(rates), np.float32)),
        ],
        "is_later",
    )
    kept = graph.add("Mul", [keep, is_later], "kept")
    new_share = graph.add("Sub", [graph.number(1), keep], "new_share")
    inverse_usual = graph.constant("inverse_usual", _float32(1 / _usual(model)))
    return kept, graph.add("Mul", [new_share, inverse_usual], "feed")


def _by_half_life(model: ContextModel, value: Callable[[float], float]) -> FloatArray:
    """Return a value of each half-life for each of its columns, [H D]."""
    return np.repeat([value(half_life) for half_life in model.memory.half_lives], model.memory.width)


def _usual(model: ContextModel) -> FloatArray:
    """Return the usual squares for each half-life, [H D]."""
    return np.tile(model.usual_square.astype(np.float64), len(model.memory.half_lives))


def _add_view(graph: GraphBuilder, view: ContextView, parts: Sequence[str], name: str) -> tuple[str, str]:
    """Add a view's score, [batch, 1], and what lies beside its subspace, [batch, F]."""
    raw = graph.add("Concat", parts, f"{name}_raw", {"axis": 1})
    centred = graph.add("Sub", [raw, graph.constant(f"{name}_center", view.center)], f"{name}_centred")
    features = graph.add(
        "Mul", [centred, graph.constant(f"{name}_inverse_scale", view.inverse_scale)], f"{name}_features"
    )
    to_components = graph.constant(f"{name}_to_components", np.ascontiguousarray(view.directions.T))
    components = graph.add("MatMul", [features, to_components], f"{name}_components")
    directions = graph.constant(f"{name}_directions", view.directions)
    projected = graph.add("MatMul", [components, directions], f"{name}_projected")
    residual = graph.add("Sub", [features, projected], f"{name}_residual")
    gain = graph.constant(f"{name}_component_gain", view.component_gain)
    far_out = graph.add("Mul", [components, gain], f"{name}_weighted_components")
    beside = add_mean_square(graph, residual, f"{name}_beside")
    within = add_mean_square(graph, far_out, f"{name}_within")
    return graph.add("Max", [beside, within], f"{name}_score"), residual


def _add_log_ratio(graph: GraphBuilder, score: str, spread: Spread, name: str) -> str:
    """Add the logarithm of a score in units of the usual one, [batch, 1]."""
    ratio = graph.add("Mul", [score, graph.number(1 / spread.usual)], f"{name}_ratio")
    floored = graph.add("Max", [ratio, graph.number(spread.floor / spread.usual)], f"{name}_floored_ratio")
    return graph.add("Log", [floored], f"{name}_log_ratio")


def _add_shares(graph: GraphBuilder, residual: str, view: ContextView, width: int, name: str) -> str:
    """Add each column's share in the squared residual of its features, [batch, D]."""
    kinds = 1 + 2 * len(view.half_lives)
    squares = graph.add("Mul", [residual, residual], f"{name}_squares")
    by_column = graph.constant(f"sum_of_{kinds}", np.tile(np.eye(width, dtype=np.float32), (kinds, 1)))
    sums = graph.add("MatMul", [squares, by_column], f"{name}_column_squares")
    positive = graph.add("Add", [sums, graph.number(SMALLEST_SQUARE)], f"{name}_positive_squares")
    total = graph.add("ReduceSum", [positive, graph.features()], f"{name}_total_square", {"keepdims": 1})
    return graph.add("Div", [positive, total], f"{name}_shares")


def _add_rebuilt(graph: GraphBuilder, u: str, residual: str, view: ContextView, width: int) -> str:
    """Add what u would have been, [batch, D]."""
    of_row = _columns(graph, residual, 0, width, "row_residual")
    scale = graph.constant("row_scale", (1 / view.inverse_scale[:width]).astype(np.float32))
    return graph.add("Sub", [u, graph.add("Mul", [of_row, scale], "row_beside")], "rebuilt")


def _add_mean(graph: GraphBuilder, values: Sequence[str], name: str) -> str:
    total = values[0]
    for i, value in enumerate(values[1:]):
        total = graph.add("Add", [total, value], f"{name}_sum_{i}")
    return graph.add("Mul", [total, graph.number(1 / len(values))], name)


def _columns(
    graph: GraphBuilder, values: str, first: int, end: int, name: str, *, whole: bool = False
) -> str:
    """Add the columns from `first` up to `end`; with `whole` they are all there are."""
    if whole:
        return values
    bounds = [graph.constant(f"column_{bound}", np.array([bound])) for bound in (first, end)]
    return graph.add("Slice", [values, *bounds, graph.features()], name)


def _float32(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float32)
