"""The column that seasonal models have besides a table's own: when on a clock a row was taken."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from datasentinel.calendar_time import second_of_week
from datasentinel.tables.problems import BadRow, ProblemKind

if TYPE_CHECKING:
    from datasentinel.tables.chunk import Chunk
    from datasentinel.types import Float64Array


@dataclass(frozen=True)
class CalendarColumn:
    """Adds the second of the week to chunks, as the last column.

    Attributes
    ----------
    time : str
        Name of the column of times, which is handed through.
    zone : str
        IANA name of the time zone.
    """

    time: str
    zone: str

    def add(self, chunk: Chunk) -> Chunk:
        """Return the chunk with its rows' seconds of the week; rows without a time are bad."""
        times = chunk.good_values(self.time)
        seconds = second_of_week(times, self.zone)
        values = np.column_stack([chunk.values, seconds.astype(chunk.values.dtype)])
        return replace(chunk, values=values).without(not_times(chunk, self.time, seconds))


def not_times(chunk: Chunk, column: str, seconds: Float64Array) -> list[BadRow]:
    """Return the good rows of a chunk whose times in a column are none: those with seconds [n] not finite."""
    wrong = np.flatnonzero(~np.isfinite(seconds))
    if not wrong.size:
        return []
    times = chunk.good_values(column)
    return [
        BadRow(int(chunk.rows[i]), None, ProblemKind.TIME, f"column '{column}': '{times[i]}' is not a time")
        for i in wrong.tolist()
    ]
