"""Whether rows are a recording, in which neighbours resemble each other, and which rows to hold out."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from datasentinel.errors import DataError
from datasentinel.training.mapping import fit_soft_clip

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from datasentinel.types import BoolArray, Float32Array, Float64Array, Int64Array

# Of the correlation of neighbouring rows. Rows in random order have about 0, recordings of machines 0.7 and
# more.
_LEAST_CORRELATION = 0.5
_HOUR_S = 3600.0
_TWICE = (
    "; if this is the hour that comes twice as summer time ends, write times with their offset from UTC, as "
    "in 2026-10-25T02:30:00+01:00"
)
# With fewer rows chance alone may look like order.
_LEAST_ROWS = 100


@dataclass(frozen=True)
class Order:
    """How the rows that a detector is trained on follow each other.

    Attributes
    ----------
    starts : tuple of int
        The rows that a recording begins with, ascending from 0; each ends where the next begins.
    row_s : float or None
        Seconds from one row to the next, where that is known: the usual step between different times (the
        median), by how many rows usually share one.
    times_s : float64 array, shape [N], or None
        When each row was taken, where half-lives count time.
    """

    starts: tuple[int, ...] = (0,)
    row_s: float | None = None
    times_s: Float64Array | None = field(default=None, compare=False)

    def steps(self) -> Float64Array | None:
        """Return how many usual steps each row is later than the one before; 1 for the first ones."""
        if self.times_s is None or self.row_s is None:
            return None
        steps = np.diff(self.times_s, prepend=np.nan) / self.row_s
        steps[list(self.starts)] = 1
        return steps

    @classmethod
    def of_rows(
        cls, series: Sequence[Hashable], times_s: Float64Array | None = None
    ) -> tuple[Int64Array, Order]:
        """Put the rows of a table in order.

        Parameters
        ----------
        series : sequence of hashable, length N
            Which series a row belongs to.
        times_s : float64 array, shape [N], optional
            When it was taken, in seconds.

        Returns
        -------
        rows : int64 array, shape [N]
            Their numbers, a series behind the other.
        order : Order

        Raises
        ------
        DataError
            The rows of a series are not in order of time.
        """
        codes: dict[Hashable, int] = {}
        of_row = np.array([codes.setdefault(name, len(codes)) for name in series], np.int64)
        rows = np.argsort(of_row, kind="stable")
        starts = np.flatnonzero(np.diff(of_row[rows], prepend=-1))
        row_s = None
        if times_s is not None:
            steps = np.diff(times_s[rows], prepend=np.nan)
            steps[starts] = np.nan
            if wrong := np.flatnonzero(steps < 0).tolist():
                is_turned = not (steps > 0).any()
                hint = _TWICE if steps[wrong[0]] >= -_HOUR_S and not is_turned else ""
                raise DataError(
                    f"row {rows[wrong[0]]} is earlier than the one before it in its series"
                    f"{', as are all others (the latest comes first)' * is_turned}: the rows of a "
                    f"recording are to be in order of time{hint}"
                )
            usual = steps[steps > 0]
            if usual.size:
                # Times in whole minutes, say, are shared by all rows of a minute.
                sharing = np.diff(np.flatnonzero(steps != 0), append=len(steps))
                row_s = float(np.median(usual) / np.median(sharing))
        return rows, cls(tuple(starts.tolist()), row_s)

    def split_at_gaps(self, times_s: Float64Array, warm_up_rows: int) -> Order:
        """Begin a recording after each gap in the ordered rows' times that nothing is remembered across."""
        if self.row_s is None:
            return self
        gaps = np.flatnonzero(np.diff(times_s) > warm_up_rows * self.row_s) + 1
        return replace(self, starts=tuple(sorted({*self.starts, *gaps.tolist()})))

    def of(self, kept: Int64Array) -> Order:
        """Return the order of those rows only that are kept, by their ascending numbers."""
        recording = np.searchsorted(self.starts, kept, side="right")
        first = np.flatnonzero(np.diff(recording, prepend=0))
        times_s = None if self.times_s is None else self.times_s[kept]
        return Order(tuple(first.tolist()), self.row_s, times_s)

    def ends(self, rows: int, share: float, warm_up_rows: int = 0) -> BoolArray:
        """Return which of so many rows are the last share, at least two, of a recording.

        Where there are several recordings, those within the warm-up of theirs are not.
        """
        last = np.zeros(rows, bool)
        for first, end in zip(self.starts, (*self.starts[1:], rows), strict=True):
            begin = end - max(2, round(share * (end - first)))
            if len(self.starts) > 1:
                begin = max(begin, first + warm_up_rows)
            last[max(begin, first) : end] = True
        return last


def serial_correlation(rows: Float32Array) -> float:
    """Return the correlation of rows with their successors, averaged over the columns that vary.

    Parameters
    ----------
    rows : float32 array, shape [N, D]
        Finite raw rows in the order in which they were observed.
    """
    soft_clip = fit_soft_clip(rows)
    u = soft_clip.apply(rows)[:, soft_clip.scaling.varying].astype(np.float64)
    if u.size == 0 or len(u) < 2:
        return 0.0
    u -= u.mean(axis=0)
    return float(((u[1:] * u[:-1]).mean(axis=0) / np.square(u).mean(axis=0)).mean())


def is_recording(rows: Float32Array) -> bool:
    """Return whether the order of the rows matters: neighbours are alike.

    Then rows held out at random would be known from their neighbours, and everything learnt from them would
    be too sure of itself.
    """
    return len(rows) >= _LEAST_ROWS and serial_correlation(rows) > _LEAST_CORRELATION


def independent_share(rows: Float32Array) -> float:
    """Return how many independent rows a row stands for, if columns are autoregressive of first order.

    Their effective number is N (1 - r) / (1 + r), r being the serial correlation (G. Bayley, J. Hammersley,
    "The 'effective' number of independent observations in an autocorrelated time series", 1946).
    """
    correlation = min(max(serial_correlation(rows), 0.0), 1.0)
    return (1 - correlation) / (1 + correlation)


def last_rows(count: int, share: float) -> Int64Array:
    """Return the indices of the last `share` of `count` rows, at least two."""
    return np.arange(count - max(2, round(share * count)), count)
