"""Times written as text: the forms that are read, and whether dates begin with the day or the month."""

from __future__ import annotations

import contextlib
import datetime as dt
import functools
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

if TYPE_CHECKING:
    from collections.abc import Iterable

DateOrder: TypeAlias = Literal["day", "month", "year"]
_ORDERS: tuple[DateOrder, ...] = get_args(DateOrder)

_CLOCK = (
    r"(?P<hour>\d{1,2}):?(?P<minute>\d{2})(:?(?P<second>\d{2})([.,](?P<fraction>\d+))?)?"
    r"(\s*(?P<half>[AaPp])\.?[Mm]\.?)?(\s*(?P<zone>Z|UTC|GMT|[+-]\d{2}(:?\d{2})?))?"
)
_DATE = r"(?P<date>\d{8}|\d{1,4}(?P<mark>[-/.])\d{1,2}(?P=mark)\d{1,4})"
_ONLY_DATE = re.compile(_DATE, re.ASCII)
_TIME = re.compile(rf"{_DATE}((,?\s+|T)(?P<clock>{_CLOCK}))?", re.ASCII)
_TIME_OF_DAY = re.compile(r"\d{1,2}:\d{2}(:\d{2}([.,]\d+)?)?(\s*[AaPp]\.?[Mm]\.?)?", re.ASCII)
# Years of two digits are those from 1969 on, as POSIX has it.
_FIRST_OF_TWO_DIGITS = 69


@dataclass(frozen=True)
class DateOrders:
    """What the dates of a column may begin with, by all that was seen of them.

    Attributes
    ----------
    fitting : frozenset of str
        "day", "month" and "year", those that suit every date which tells them apart.
    unclear : str
        A date that is another one in another order; empty where there is none.
    has_points : bool
        Whether there are such dates between points, where the day comes first if it can.
    has_short : bool
        Whether there are dates that do not begin with a year of four digits.
    """

    fitting: frozenset[DateOrder] = frozenset(_ORDERS)
    unclear: str = ""
    has_points: bool = False
    has_short: bool = False

    def seen(self, values: Iterable[object]) -> DateOrders:
        """Return what is left after more values of the column."""
        fitting, unclear, has_points, has_short = self.fitting, self.unclear, self.has_points, self.has_short
        words = (value.replace("T", " ").split(maxsplit=1) for value in values if isinstance(value, str))
        for date in dict.fromkeys(word[0].rstrip(",") for word in words if word):
            readings = _readings(date) if _ONLY_DATE.fullmatch(date) else {}
            has_short = has_short or (bool(readings) and not date[:4].isdigit())
            if len(set(readings.values())) > 1 and "." in date:
                has_points = True
            elif len(set(readings.values())) > 1:
                unclear = unclear or date
            elif len(readings) != 1:
                continue
            fitting &= readings.keys()
        return DateOrders(fitting, unclear, has_points, has_short)

    @property
    def order(self) -> DateOrder | None:
        """What dates begin with; None where that is not known, or makes no difference."""
        if len(self.fitting) == 1:
            return next(iter(self.fitting))
        return "day" if self.has_points and not self.unclear and "day" in self.fitting else None

    @property
    def is_open(self) -> bool:
        """Whether more dates may tell the order of those seen."""
        return self.has_short and len(self.fitting) > 1

    @property
    def problem(self) -> str:
        """Why the dates cannot be read; empty if they can."""
        if not self.fitting:
            return "some dates begin with the day and others with the month"
        parts = " or the ".join(order for order in _ORDERS if order in self.fitting)
        return f"'{self.unclear}' may begin with the {parts}" if self.is_open and self.unclear else ""


def read_time(text: str, order: DateOrder | None) -> dt.datetime | None:
    """Read a date, with a time of day or without.

    Parameters
    ----------
    text : str
        ISO 8601; or year, month and day between hyphens, slashes or points, and a time such as 9:05,
        09:05:30.25, 9:05 PM or 24:00, with Z, UTC or an offset behind it.
    order : str or None
        What a date begins with that does not begin with a year of four digits. Without it such a date is read
        if it is the same in all orders, or if points tell that the day comes first.

    Returns
    -------
    datetime or None
        None for anything else.
    """
    stripped = text.strip()
    match = _TIME.fullmatch(stripped)
    if match is None:
        with contextlib.suppress(ValueError):
            return dt.datetime.fromisoformat(stripped)
        return None
    readings = _readings(match["date"])
    if order is None:
        seen = DateOrders().seen([stripped])
        order = seen.order or (None if seen.problem else "day")
    date = readings.get(order) if order is not None else None
    return None if date is None else _at_clock(date, match)


def is_time_text(text: str) -> bool:
    """Whether a text is a time that `read_time` reads in some order, or a time of day."""
    stripped = text.strip()
    if _TIME_OF_DAY.fullmatch(stripped):
        return True
    return any(read_time(stripped, order) is not None for order in _ORDERS)


def why_no_time(value: object) -> str:
    """Return what is wrong with a value of a column of times that was not read."""
    if isinstance(value, str):
        if _TIME_OF_DAY.fullmatch(value.strip()):
            return f"'{value}' is a time of day without a date"
        if is_time_text(value):
            return f"'{value}' is not a time with day and month in the order of the others"
    return f"'{value}' is not a time"


@functools.lru_cache(maxsize=4096)
def _readings(date: str) -> dict[DateOrder, dt.date]:
    """Return what a date is in each order that it can have."""
    first, second, third = (date[:4], date[4:6], date[6:]) if date.isdigit() else re.split(r"[-/.]", date)
    if len(first) == 4 and len(third) <= 2:
        written = dict.fromkeys(_ORDERS, (first, second, third))
    elif len(first) <= 2 and len(third) in (2, 4):
        written = {"day": (third, second, first), "month": (third, first, second)}
        if len(third) == 2 and len(first) == 2:
            written["year"] = (first, second, third)
    else:
        return {}
    readings = {}
    for order, (year, month, day) in written.items():
        with contextlib.suppress(ValueError):
            readings[order] = dt.date(_year(year), int(month), int(day))
    return readings


def _year(digits: str) -> int:
    if len(digits) == 4:
        return int(digits)
    return int(digits) + (1900 if int(digits) >= _FIRST_OF_TWO_DIGITS else 2000)


def _at_clock(date: dt.date, match: re.Match[str]) -> dt.datetime | None:
    moment = dt.datetime.combine(date, dt.time())
    if match["clock"] is None:
        return moment
    hour, minute, second = (int(match[part] or 0) for part in ("hour", "minute", "second"))
    if match["half"]:
        if not 1 <= hour <= 12:
            return None
        hour = hour % 12 + 12 * (match["half"] in "pP")
    if hour > 24 or minute > 59 or second > 59 or (hour == 24 and minute + second > 0):
        return None
    fraction = int((match["fraction"] or "0")[:6].ljust(6, "0"))
    try:
        moment += dt.timedelta(hours=hour, minutes=minute, seconds=second, microseconds=fraction)
        return moment if match["zone"] is None else moment.replace(tzinfo=_zone(match["zone"]))
    except (ValueError, OverflowError):
        return None


def _zone(text: str) -> dt.timezone:
    if text[0] not in "+-":
        return dt.UTC
    digits = text[1:].replace(":", "").ljust(4, "0")
    offset = dt.timedelta(hours=int(digits[:2]), minutes=int(digits[2:]))
    return dt.timezone(-offset if text[0] == "-" else offset)
