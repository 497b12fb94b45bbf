"""The column that seasonal models have besides a table's own: when on a clock a row was taken."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from datasentinel.calendar_time import second_of_week
from datasentinel.tables.problems import BadRow, ProblemKind

if TYPE_CHECKING:
    from datasentinel.tables.chunk import Chunk


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
        known = np.isfinite(seconds)
        if known.all():
            return replace(chunk, values=values)
        bad = [
            BadRow(row, None, ProblemKind.TIME, f"column '{self.time}': '{time}' is not a time")
            for row, time, good in zip(chunk.rows.tolist(), times, known.tolist(), strict=True)
            if not good
        ]
        labels = chunk.label_values
        if labels is not None:
            labels = [label for label, stays in zip(labels, known.tolist(), strict=True) if stays]
        return replace(
            chunk,
            values=values[known],
            rows=chunk.rows[known],
            bad=sorted([*chunk.bad, *bad], key=lambda wrong: wrong.row),
            label_values=labels,
        )
