"""The maps of raw columns as parts of a graph; see `datasentinel.training.mapping`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from datasentinel.training.mapping import LARGEST, LARGEST_EXPONENT

if TYPE_CHECKING:
    from datasentinel.export.builder import GraphBuilder
    from datasentinel.training.mapping import RobustMap, SoftClip


def add_soft_clip(graph: GraphBuilder, part: SoftClip, *, prefix: str = "") -> str:
    """Add u, [batch, D]; the names of nodes and constants begin with `prefix`."""

    def add(operator: str, inputs: list[str], output: str) -> str:
        return graph.add(operator, inputs, prefix + output)

    shift = graph.constant(f"{prefix}shift", part.scaling.shift)
    inverse_scale = graph.constant(f"{prefix}inverse_scale", part.scaling.inverse_scale)
    z = add("Mul", [add("Sub", ["input", shift], "centred"), inverse_scale], "standardised")
    magnitude = add("Min", [add("Abs", [z], "standardised_magnitude"), graph.number(LARGEST)], "magnitude")
    share = add("Mul", [magnitude, graph.number(1 / part.knee)], "share_of_knee")
    beyond = add("Log", [add("Max", [share, graph.number(1)], "share_beyond_knee")], "log_beyond")
    tail = add("Mul", [beyond, graph.number(part.knee)], "tail")
    body = add("Min", [magnitude, graph.number(part.knee)], "body")
    clipped = add("Add", [body, tail], "clipped_magnitude")
    return add("Mul", [add("Sign", [z], "sign"), clipped], "clipped")


def add_inverse_soft_clip(graph: GraphBuilder, part: SoftClip, mapped: str) -> str:
    """Add the reconstruction in raw units, [batch, D], the graph's `output`; after `add_soft_clip`."""
    scale = graph.constant("scale", part.scaling.scale)
    magnitude = graph.add("Abs", [mapped], "rebuilt_magnitude")
    share = graph.add("Mul", [magnitude, graph.number(1 / part.knee)], "rebuilt_share")
    beyond = graph.add("Sub", [share, graph.number(1)], "rebuilt_beyond")
    exponent = graph.add(
        "Clip", [beyond, graph.number(0), graph.number(LARGEST_EXPONENT)], "rebuilt_exponent"
    )
    growth = graph.add("Sub", [graph.add("Exp", [exponent], "rebuilt_power"), graph.number(1)], "growth")
    tail = graph.add("Mul", [growth, graph.number(part.knee)], "rebuilt_tail")
    body = graph.add("Min", [magnitude, graph.number(part.knee)], "rebuilt_body")
    whole = graph.add("Add", [body, tail], "rebuilt_unclipped")
    sign = graph.add("Sign", [mapped], "rebuilt_sign")
    scaled = graph.add("Mul", [graph.add("Mul", [sign, whole], "rebuilt_standardised"), scale], "rescaled")
    return graph.add("Add", [scaled, "shift"], "output")


def add_robust_map(graph: GraphBuilder, part: RobustMap, name: str) -> str:
    """Add v, [batch, D]; the inverse hyperbolic sine out of operators that all backends have."""
    centred = graph.add("Sub", ["input", graph.constant("median", part.median)], f"{name}_centred")
    inverse_iqr = graph.constant(f"{name}_inverse_iqr", part.inverse_iqr)
    t = graph.add("Mul", [centred, inverse_iqr], f"{name}_units")
    size = graph.add("Abs", [t], f"{name}_unbounded_size")
    magnitude = graph.add("Min", [size, graph.number(LARGEST)], f"{name}_size")
    square = graph.add("Mul", [magnitude, magnitude], f"{name}_square")
    root = graph.add(
        "Sqrt", [graph.add("Add", [square, graph.number(1)], f"{name}_square_plus_1")], f"{name}_root"
    )
    log = graph.add("Log", [graph.add("Add", [magnitude, root], f"{name}_sum")], f"{name}_log")
    asinh = graph.add("Mul", [graph.add("Sign", [t], f"{name}_sign"), log], f"{name}_asinh")
    gained = graph.add("Mul", [asinh, graph.constant(f"{name}_gain", part.gain)], f"{name}_scaled")
    return graph.add("Add", [gained, graph.constant(f"{name}_offset", part.offset)], name)
