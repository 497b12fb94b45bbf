"""How finely the values of a table are resolved."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from datasentinel.types import Float32Array, Float64Array

_MOST_ROWS = 20_000


def smallest_step(values: Float32Array) -> Float64Array:
    """Return the median distance of each column's values to the nearest different one, shape [D].

    For a switch or a counter that is the step; for measurements it is next to nothing.

    Parameters
    ----------
    values : float32 array, shape [N, D]
        At most 20,000 of the rows are looked at. A column that is constant has no step: infinity.
    """
    rows = values[:: -(-len(values) // _MOST_ROWS)]
    return np.array([_median_step(column) for column in rows.T.astype(np.float64)])


def _median_step(column: Float64Array) -> float:
    distinct, counts = np.unique(column, return_counts=True)
    if len(distinct) == 1:
        return np.inf
    gaps = np.concatenate([[np.inf], np.diff(distinct), [np.inf]])
    nearest = np.minimum(gaps[:-1], gaps[1:])
    order = np.argsort(nearest)
    middle = np.searchsorted(np.cumsum(counts[order]), len(column) / 2)
    return float(nearest[order[middle]])
