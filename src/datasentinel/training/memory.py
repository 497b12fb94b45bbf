"""What a detector remembers of a stream: exponential averages of its rows and of their variability."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from datasentinel.types import Float64Array, FloatArray

# Half-lives after which the beginning of a stream counts for an eighth.
_WARM_UP_HALF_LIVES = 3
# After so many, what was seen last of a column counts for a sixteenth: the column is silent.
_STALE_HALF_LIVES = 4


def keep_of(half_life: float, steps: float = 1) -> float:
    """Return what an average of a half-life in rows keeps of itself over so many rows."""
    return float(0.5 ** (steps / half_life))


def warm_up_of(half_lives: Sequence[float]) -> int:
    """Return the rows after which the beginning of a stream counts for an eighth in the longest average."""
    return int(np.ceil(_WARM_UP_HALF_LIVES * max(half_lives)))


def stale_after(half_lives: Sequence[float]) -> int:
    """Return the rows beyond which a value that is carried says nothing about the present."""
    return int(np.ceil(_STALE_HALF_LIVES * max(half_lives)))


@dataclass(frozen=True)
class Memory:
    """The state of a stream: averages, variability, and how many rows it has had, all 0 before the first row.

    For a standardised row u, an average m of half-life h and keep k = 2^(-1/h)::

        m <- k m + (1 - k) u                          from the first row on, which m starts as
        r <- k r + (1 - k) (u - m)^2 / usual          with the new m; r starts as 1

    so r is the recent variability in units of the usual one. The count of rows marks a stream's first one.

    Where half-lives count time, k is 2^(-t/h) for a row that is t usual steps later than the one before, and
    the count is one of steps. The state then also has a place for t - 1, which the caller fills
    in before each row; it is 0 again afterwards, as for rows at the usual step.

    Attributes
    ----------
    width : int
        Number of columns, D.
    half_lives : tuple of float
        Of the averages and of the variability, in rows, in the order in which the state has them.
    row_s : float or None
        Seconds of the usual step from row to row, where half-lives count time.
    """

    width: int
    half_lives: tuple[float, ...]
    row_s: float | None = None

    @property
    def size(self) -> int:
        """Number of values in a state, S: the averages, the variabilities, perhaps t - 1, the count."""
        return 1 + (self.row_s is not None) + 2 * self.width * len(self.half_lives)

    @property
    def warm_up_rows(self) -> int:
        """Number of rows after which the stream's beginning has faded."""
        return warm_up_of(self.half_lives)


@dataclass(frozen=True)
class Remembered:
    """What a memory held along a recording, each by half-life, float64 [N, D].

    Attributes
    ----------
    average : dict
        m after each row.
    variability : dict
        r after each row.
    """

    average: dict[float, FloatArray]
    variability: dict[float, FloatArray]


def remember(
    memory: Memory,
    rows: FloatArray,
    usual: FloatArray,
    starts: Sequence[int] = (0,),
    steps: Float64Array | None = None,
) -> Remembered:
    """Run a memory along recordings, from a new stream's state each.

    Parameters
    ----------
    memory : Memory
    rows : float array, shape [N, D]
        Standardised rows, a recording behind the other.
    usual : float64 array, shape [D]
        The usual squared difference from the average.
    starts : sequence of int
        The rows that the recordings begin with, ascending.
    steps : float64 array, shape [N], optional
        How many usual steps each row is later than the one before; 1 without them.
    """
    average, variability = {}, {}
    usual_at_first = np.ones(memory.width, rows.dtype)
    for half_life in memory.half_lives:
        average[half_life] = exponential_average(rows, half_life, starts, steps=steps)
        squares = np.square(rows - average[half_life]) / usual
        variability[half_life] = exponential_average(
            squares, half_life, starts, before=usual_at_first, steps=steps
        )
    return Remembered(average, variability)


def exponential_average(
    rows: FloatArray,
    half_life: float,
    starts: Sequence[int] = (0,),
    before: FloatArray | None = None,
    steps: Float64Array | None = None,
) -> FloatArray:
    """Return the exponential averages along recordings [N, D] that begin with the rows `starts`.

    `before` [D] is the average before each of them begins; it is its first row where nothing is given.
    `steps` are as for `remember`.
    """
    keeps = [keep_of(half_life)] * len(rows)
    if steps is not None:
        keeps = [keep_of(half_life, step) for step in steps.tolist()]
    averages = np.empty_like(rows)
    for first, end in zip(starts, (*starts[1:], len(rows)), strict=True):
        current = rows[first] if before is None else before
        for i in range(first, end):
            keep = keeps[i]
            current = keep * current + (1 - keep) * rows[i]
            averages[i] = current
    return averages
