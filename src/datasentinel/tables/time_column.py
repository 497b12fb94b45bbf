"""The column that says when rows were taken, and the one that seasonal models make of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from datasentinel.calendar_time import second_of_week, seconds
from datasentinel.errors import DataError
from datasentinel.tables.problems import BadRow, ProblemKind
from datasentinel.tables.sample_column import is_missing
from datasentinel.time_text import DateOrders, why_no_time

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from datasentinel.tables.chunk import Chunk
    from datasentinel.time_text import DateOrder
    from datasentinel.types import Float64Array


_WHAT_TO_DO = "say --day-first or --month-first, or write times as 2026-10-24T12:00:00"


@dataclass(frozen=True)
class TimeColumn:
    """Reads the times of chunks.

    Attributes
    ----------
    name : str
        Of the column, which is handed through.
    date_order : str or None
        What dates begin with that do not begin with the year, "day" or "month"; None where there are no such,
        or to read only those that cannot be mistaken.
    """

    name: str
    date_order: DateOrder | None = None

    @classmethod
    def decide(
        cls,
        where: str,
        name: str,
        values: Iterable[Sequence[object]],
        trained: DateOrder | None = None,
    ) -> TimeColumn:
        """Find out whether dates begin with the day or with the month, from as many values as that takes.

        Parameters
        ----------
        where : str
            The table, for error messages.
        name : str
            The column.
        values : iterable of sequences
            The column's values, some at a time.
        trained : str, optional
            What dates began with that a model was trained on.

        Raises
        ------
        DataError
            The values leave it open, or contradict each other or those trained on.
        """
        orders = DateOrders()
        for some in values:
            orders = orders.seen(some)
            if trained is not None and trained not in orders.fitting:
                odd = next(value for value in some if trained not in DateOrders().seen([value]).fitting)
                raise DataError(
                    f"{where}: column '{name}': '{odd}' does not begin with the {trained}, as dates that the "
                    f"model was trained on did: {_WHAT_TO_DO}"
                )
            if not orders.is_open:
                break
        if trained is not None:
            return cls(name, trained)
        if orders.problem:
            raise DataError(f"{where}: column '{name}': {orders.problem}: {_WHAT_TO_DO}")
        return cls(name, orders.order)

    def seconds(self, chunk: Chunk) -> Float64Array:
        """Return when the good rows were taken, in seconds since 1970, shape [n]; NaN for what is no time."""
        return seconds(chunk.plain_values(self.name), self.date_order)

    def bad_rows(self, chunk: Chunk, times: Float64Array, *, may_lack: bool = False) -> list[BadRow]:
        """Return the good rows whose times are none: those with a time [n] not finite.

        With `may_lack`, rows whose time is missing are not among them.
        """
        wrong = np.flatnonzero(~np.isfinite(times)).tolist()
        if not wrong:
            return []
        values = chunk.good_values(self.name)
        return [
            BadRow(
                int(chunk.rows[i]), None, ProblemKind.TIME, f"column '{self.name}': {why_no_time(values[i])}"
            )
            for i in wrong
            if not (may_lack and is_missing(values[i]))
        ]


@dataclass(frozen=True)
class CalendarColumn:
    """Adds the second of the week to chunks, as the last column.

    Attributes
    ----------
    time : TimeColumn
        The column of times.
    zone : str
        IANA name of the time zone.
    """

    time: TimeColumn
    zone: str

    def add(self, chunk: Chunk) -> Chunk:
        """Return the chunk with its rows' seconds of the week; rows without a time are bad."""
        times = chunk.plain_values(self.time.name)
        of_week = second_of_week(times, self.zone, self.time.date_order)
        values = np.column_stack([chunk.values, of_week.astype(chunk.values.dtype)])
        return replace(chunk, values=values).without(self.time.bad_rows(chunk, of_week))
