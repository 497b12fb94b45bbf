"""The attribution of a composite score to its features, as part of the graph."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np

from datasentinel.training.attribution import SMALLEST_SQUARE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt


class GraphBuilder(Protocol):
    """What the builder of a graph has to provide."""

    def constant(self, name: str, value: npt.NDArray[np.generic]) -> str:
        """Add a constant; return its name."""
        ...

    def add(
        self, operator: str, inputs: Sequence[str], output: str, attributes: Mapping[str, float] | None = None
    ) -> str:
        """Add a node; return the name of its output."""
        ...


def add_shares(graph: GraphBuilder, *, residual: str, marginal: str, output: str = "feature_shares") -> str:
    """Add each feature's share in a score, float32 [batch, D]; return the name.

    The share of feature i is the mean of two::

        r_i^2 / sum_j r_j^2    how far it is from its reconstruction
        v_i^2 / sum_j v_j^2    how far it is from its own usual values

    so shares are positive and add up to 1. docs/explanations.md measures this choice.

    Parameters
    ----------
    graph : GraphBuilder
        Gets the nodes, which use standard operators only.
    residual : str
        Tensor r, float32 [batch, D]: the autoencoder's input minus its reconstruction.
    marginal : str
        Tensor v, float32 [batch, D]: each feature by itself, with mean 0 and variance 1 on normal rows.
    output : str
        The result's name.
    """
    graph.constant("contribution_axis", np.array([1]))
    graph.constant("smallest_square", np.array([SMALLEST_SQUARE], dtype=np.float32))
    graph.constant("one_half", np.array([0.5], dtype=np.float32))
    shares = graph.add(
        "Add", [_shares(graph, residual, "residual"), _shares(graph, marginal, "marginal")], "both_shares"
    )
    return graph.add("Mul", [shares, "one_half"], output)


def _shares(graph: GraphBuilder, values: str, name: str) -> str:
    """Divide each feature's square by the sum over the features."""
    square = graph.add("Mul", [values, values], f"{name}_square")
    positive = graph.add("Add", [square, "smallest_square"], f"{name}_square_positive")
    total = graph.add("ReduceSum", [positive, "contribution_axis"], f"{name}_square_sum", {"keepdims": 1})
    return graph.add("Div", [positive, total], f"{name}_share")
