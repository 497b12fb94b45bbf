"""Timestamps as what a clock on the wall says: the second of the local week, which seasonal models take.

A model with a season has one column more than the table it was trained on, the last one, named
`second_of_week`: seconds since Monday 00:00, local time. So it runs on every backend and wire as any other.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import functools
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import numpy as np

from datasentinel.errors import SettingsError
from datasentinel.time_text import read_time

if TYPE_CHECKING:
    from collections.abc import Sequence

    from datasentinel.time_text import DateOrder
    from datasentinel.types import Float64Array

COLUMN = "second_of_week"
DAY_S = 86_400.0
WEEK_S = 7 * DAY_S
# Numbers are times since 1970, in the unit in which they lie between 1990 and 2103.
LEAST_EPOCH_S, MOST_EPOCH_S = 6.3e8, 4.2e9
EPOCH_UNITS = {"seconds": 1.0, "ms": 1e3, "µs": 1e6, "ns": 1e9}


def time_zone(name: str) -> ZoneInfo:
    """Return the time zone of an IANA name such as Europe/Berlin.

    Raises
    ------
    SettingsError
        There is none of that name here.
    """
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:  # KeyError: ZoneInfoNotFoundError
        raise SettingsError(
            f"unknown time zone '{name}': name one as in the IANA database, such as Europe/Berlin or UTC "
            "(where no name is known, install tzdata)"
        ) from error


def second_of_week(
    times: Sequence[Any], zone: str = "UTC", date_order: DateOrder | None = None
) -> Float64Array:
    """Return the seconds since Monday 00:00 on a clock in a time zone, shape [N].

    Parameters
    ----------
    times : sequence of datetime, numpy.datetime64, str or number
        Text as `time_text.read_time` takes it, ISO 8601 for one; numbers are seconds, ms, µs or ns since
        1970. Times without an offset from UTC are taken for what the clock shows, numbers and `datetime64`
        for UTC.
    zone : str
        IANA name of the time zone; summer time is what it is there.
    date_order : str, optional
        What dates begin with, "day" or "month", that do not begin with the year; `time_text.DateOrders` finds
        it out. Without it, dates that may begin with either are not times.

    Returns
    -------
    float64 array, shape [N]
        NaN for what is not a time.

    Raises
    ------
    SettingsError
        The zone is unknown.
    """
    clock = time_zone(zone)
    return np.array([_second_of_week(_moment(value, date_order), clock) for value in times], np.float64)


@functools.cache
def utc_offsets(zone: str) -> tuple[list[float], list[float]]:
    """Return when the offset of a time zone from UTC changes from 1990 to 2103, and what it is from then on.

    Returns
    -------
    starts_s, offsets_s : list of float
        Seconds since 1970, ascending, and seconds ahead of UTC.

    Raises
    ------
    SettingsError
        The zone is unknown.
    """
    clock = time_zone(zone)

    def offset_s(second: int) -> float:
        offset = dt.datetime.fromtimestamp(second, clock).utcoffset()
        assert offset is not None  # noqa: S101
        return offset.total_seconds()

    starts_s, offsets_s = [float(LEAST_EPOCH_S)], [offset_s(int(LEAST_EPOCH_S))]
    week_s = int(WEEK_S)  # No offset has lasted for less.
    for week_end in range(int(LEAST_EPOCH_S) + week_s, int(MOST_EPOCH_S) + week_s, week_s):
        if (new_s := offset_s(week_end)) != offsets_s[-1]:
            before, after = week_end - week_s, week_end
            while after - before > 1:
                middle = (before + after) // 2
                before, after = (before, middle) if offset_s(middle) == new_s else (middle, after)
            starts_s.append(float(after))
            offsets_s.append(new_s)
    return starts_s, offsets_s


def seconds(times: Sequence[Any], date_order: DateOrder | None = None) -> Float64Array:
    """Return the seconds since 1970, shape [N], of times as `second_of_week` takes them.

    Times without an offset are taken for UTC, numbers that are no such times, and durations, for seconds from
    some beginning.
    """
    return np.array([_seconds(value, date_order) for value in times], np.float64)


def _seconds(value: object, date_order: DateOrder | None) -> float:
    moment = _moment(value, date_order)
    if moment is not None:
        return (moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)).timestamp()
    if isinstance(value, dt.timedelta | np.timedelta64):
        return float(np.timedelta64(value) / np.timedelta64(1, "s"))
    try:
        return float(value)  # type: ignore[arg-type]  # whatever else it is
    except (TypeError, ValueError, OverflowError):
        return float("nan")


def _second_of_week(moment: dt.datetime | None, clock: ZoneInfo) -> float:
    if moment is None:
        return float("nan")
    try:
        local = moment if moment.tzinfo is None else moment.astimezone(clock)
    except OverflowError:  # It is beyond the years 1 to 9999 there.
        return float("nan")
    seconds = ((local.weekday() * 24 + local.hour) * 60 + local.minute) * 60 + local.second
    return seconds + local.microsecond / 1e6


def _moment(value: object, date_order: DateOrder | None) -> dt.datetime | None:
    """Return a time; what counts from 1970 is in UTC, other times are as they were given."""
    if isinstance(value, np.datetime64):
        value = value.astype("datetime64[us]").astype(object)
        return value.replace(tzinfo=dt.UTC) if isinstance(value, dt.datetime) else None
    if isinstance(value, dt.date):
        return value if isinstance(value, dt.datetime) else dt.datetime.combine(value, dt.time())
    if not isinstance(value, str):
        return _of_number(value)
    if value.strip()[:5].isdecimal():
        # Digits may be a number or a date: 1710123100000 is one in ms, not the last day of 1710.
        return _of_number(value) or read_time(value, date_order)
    with contextlib.suppress(ValueError):
        return dt.datetime.fromisoformat(value.strip())
    return read_time(value, date_order)


def _of_number(value: object) -> dt.datetime | None:
    try:
        number = float(value)  # type: ignore[arg-type]  # whatever else it is
    except (TypeError, ValueError, OverflowError):
        return None
    for unit in EPOCH_UNITS.values():
        if LEAST_EPOCH_S <= number / unit <= MOST_EPOCH_S:
            return dt.datetime.fromtimestamp(number / unit, dt.UTC)
    return None
