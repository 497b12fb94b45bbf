"""Missing values of recordings: carried from the last row that has one."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    _Real = TypeVar("_Real", np.float32, np.float64)


def fill_forward(
    rows: npt.NDArray[_Real], first_values: Sequence[float], starts: Sequence[int] = (0,)
) -> npt.NDArray[_Real]:
    """Return recordings in which each missing value is the last one of its column before it.

    Parameters
    ----------
    rows : float array, shape [N, D]
        Recordings, one behind the other; NaN where a value is missing.
    first_values : sequence of float, length D
        What a column has before the first value of a recording; NaN for one that must have its own in every
        row, which is left as it is.
    starts : sequence of int
        The rows that the recordings begin with, ascending from 0.

    Returns
    -------
    float array, shape [N, D]
        `rows` itself where nothing is missing.
    """
    missing = np.isnan(rows)
    if not missing.any():
        return rows
    numbers = np.arange(1, len(rows) + 1)[:, np.newaxis]
    beginning = np.zeros(len(rows), np.int64)
    beginning[list(starts)] = list(starts)
    beginning = np.maximum.accumulate(beginning)[:, np.newaxis]
    # For each value the row, counted from 1, of the last one that is there; 0 to `beginning` where none is.
    last = np.maximum.accumulate(np.where(missing, 0, numbers), axis=0)
    found = np.take_along_axis(rows, np.maximum(last - 1, 0), axis=0)
    first = np.asarray(first_values, rows.dtype)
    return np.where(np.isnan(first), rows, np.where(last > beginning, found, first))
