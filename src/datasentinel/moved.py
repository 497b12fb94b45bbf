"""Where normal rows begin to look different from those that a model was calibrated on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from datasentinel.promise import tail_probability

if TYPE_CHECKING:
    from datasentinel.types import Float64Array, Int64Array

# The p-value that is watched. Low, but not so low that the few rows with a lower one say nothing.
WATCHED = 0.05
# Neighbouring rows of a recording resemble each other: a share that is a little too great may be chance.
_TIMES_TOO_MANY = 2.0
_UNLIKELY = 1e-4


@dataclass(frozen=True)
class Move:
    """Where the data moved.

    Attributes
    ----------
    row : int
        Number of the first row behind the move.
    before, after : float
        Shares of the normal rows with a p-value of at most `WATCHED`, on either side.
    """

    row: int
    before: float
    after: float

    def __str__(self) -> str:
        return (
            f"the data moved: from row {self.row} on, {self.after:.1%} of the normal rows have a p-value of "
            f"at most {WATCHED:g}, before it {self.before:.1%}"
        )


def find_move(rows: Int64Array, p_values: Float64Array, calibration_rows: int) -> Move | None:
    """Find the row that parts normal rows best into those as calibrated and those that are not.

    The estimate is the extreme of the cumulative sum of deviations from the mean (E. Page, "Continuous
    inspection schemes", 1954).

    Parameters
    ----------
    rows : int64 array, shape [N]
        Numbers of the normal rows, ascending.
    p_values : float64 array, shape [N]
    calibration_rows : int
        How many rows the p-values rest on.

    Returns
    -------
    Move or None
        None where no more p-values are low than may be.
    """
    low = p_values <= WATCHED
    count = int(np.count_nonzero(low))
    too_many = count > _TIMES_TOO_MANY * WATCHED * len(rows)
    if not too_many or tail_probability(count, len(rows), WATCHED, calibration_rows) > _UNLIKELY:
        return None
    sums = np.cumsum(low - low.mean())
    # The rows after the least sum have more low p-values than those up to it.
    split = int(sums.argmin()) + 1
    if split == len(rows):
        split = 0
    before = float(low[:split].mean()) if split else 0.0
    return Move(int(rows[split]), before, float(low[split:].mean()))
