"""The first values of a column, and what they say it is."""

from __future__ import annotations

import datetime as dt
import math
import re
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from datasentinel.calendar_time import EPOCH_UNITS, LEAST_EPOCH_S, MOST_EPOCH_S
from datasentinel.errors import DataError
from datasentinel.time_text import is_time_text

if TYPE_CHECKING:
    from datasentinel.types import Float64Array

_PANDAS_INDEX = re.compile(r"Unnamed: \d+|__index_level_\d+__|level_\d+")
_ID_NAME = re.compile(r"(?i:id|uuid|guid|uid)|.*[_\- .](?i:id|uuid|guid|uid)|.*[a-z](Id|ID|Uuid|UUID)")
_TIME_NAME = re.compile(
    r"(?i)(.*[_\- .])?(time|timestamp|timestamps|ts|date|datetime|epoch|unixtime|time_?(s|ms|us|ns))"
)
# A number as only people or Python read it: the column is one of numbers, and each such row is reported.
_SPOILT_NUMBER = re.compile(r"[+-]?[$€£]?\d[\d_,' ]*(\.\d*)?([eE][+-]?\d+)?\s*%?")
MISSING_WORDS = frozenset({"", "na", "n/a", "nan", "null", "none", "-", "?", "nat", "#n/a", "<na>"})
# How many are looked at.
SAMPLE_ROWS = 1000
# Fewer say nothing about an order.
MIN_ROWS_TO_JUDGE = 5
# How reasons begin that a column of times is left out for.
TIMESTAMP = "timestamps"


@dataclass(frozen=True)
class SampleColumn:
    """The first values of a column, to judge it by.

    Attributes
    ----------
    name : str
        Empty where it has none.
    values : list
        Numbers, strings, dates, or None where missing.
    is_index : bool
        Whether the file says that it is an index.
    nested : str
        The type of a column that holds neither numbers nor text nor times, otherwise empty.
    """

    name: str
    values: list[object]
    is_index: bool = False
    nested: str = ""

    @cached_property
    def present(self) -> list[object]:
        """The values that are not missing."""
        return [value for value in self.values if not is_missing(value)]

    def numbers(self) -> Float64Array | None:
        """Return the values as numbers, NaN for spoilt ones; None if more than half are something else."""
        numbers = np.array([as_number(value) for value in self.present], dtype=np.float64)
        others = [self.present[place] for place in np.flatnonzero(np.isnan(numbers)).tolist()]
        spoilt = sum(isinstance(value, str) and _is_spoilt_number(value.strip()) for value in others)
        return None if 2 * (len(others) - spoilt) >= len(self.present) else numbers


def is_missing(value: object) -> bool:
    """Whether a value stands for a missing one."""
    if isinstance(value, str):
        return value.strip().lower() in MISSING_WORDS
    return value is None or (isinstance(value, float) and np.isnan(value)) or str(value) == "NaT"


def _is_spoilt_number(text: str) -> bool:
    """Whether a text that is not a number was meant to be one."""
    return bool(_SPOILT_NUMBER.fullmatch(text)) and not is_time(text)


def as_number(value: object) -> float:
    """Return a number, the seconds of a duration, or NaN for anything else."""
    if isinstance(value, str):
        text = value.strip()
        try:
            return float(text) if text.isascii() and "_" not in text else np.nan
        except ValueError:
            return {"true": 1.0, "false": 0.0}.get(text.lower(), np.nan)
    if isinstance(value, np.timedelta64 | dt.timedelta):
        return float(np.timedelta64(value) / np.timedelta64(1, "s"))
    return to_float(value) if isinstance(value, int | float | np.number) else np.nan


def to_float(value: float | np.number[Any] | np.bool_) -> float:
    """Return a number as a float, infinite where it is beyond one as texts of its digits are."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def why_no_feature(where: str, column: SampleColumn, *, named: bool, first: bool) -> str:
    """Return why a column should not be learnt from, or an empty string.

    Parameters
    ----------
    where : str
        The table, for error messages.
    column : SampleColumn
    named : bool
        Whether the table names its columns.
    first : bool
        Whether it is the table's first column.

    Raises
    ------
    DataError
        It holds what is neither a number nor text nor a time.
    """
    if column.nested:
        raise DataError(
            f"{where}: column '{column.name}' holds {column.nested}, not numbers; leave it out with --ignore"
        )
    if not column.present:
        return "it is empty" if column.values else ""
    numbers = column.numbers()
    if column.is_index or _PANDAS_INDEX.fullmatch(column.name) or (named and first and not column.name):
        return "it is the index of a data frame"
    if numbers is None:
        others = sum(not is_time(value) for value in column.present)
        return TIMESTAMP if others <= _most_odd(len(column.present)) else _text_reason(column)
    if not named and first and _counts_up(column):
        return "it counts the rows"
    return _why_no_feature_by_numbers(column.name, numbers)


def _why_no_feature_by_numbers(name: str, numbers: Float64Array) -> str:
    # A cell that is no number costs its row, and says nothing of the column.
    numbers = numbers[np.isfinite(numbers)]
    unit, epochs = _as_epochs(numbers)
    if unit and (_rises(epochs) or _TIME_NAME.fullmatch(name)):
        return f"{TIMESTAMP} ({unit} since 1970)"
    if _TIME_NAME.fullmatch(name) and len(numbers) > 1 and _is_in_order(numbers):
        return f"{TIMESTAMP}, by its name and order"
    if _ID_NAME.fullmatch(name) and bool(np.all(numbers == np.round(numbers))):
        return "an identifier, by its name"
    return ""


def _text_reason(column: SampleColumn) -> str:
    return "an identifier, by its name" if _ID_NAME.fullmatch(column.name) else "it holds text"


def is_time(value: object) -> bool:
    """Return whether a value is a date, a time of day or both."""
    if isinstance(value, str):
        return is_time_text(value)
    return isinstance(value, dt.date | dt.time | np.datetime64)


def _most_odd(num_values: int) -> int:
    """Return how many odd values a column may have and still be what the others say."""
    return max(1, num_values // 20) if num_values >= MIN_ROWS_TO_JUDGE else 0


def _rises(numbers: Float64Array) -> bool:
    return len(numbers) >= 3 and bool(np.all(np.diff(numbers) > 0))


def _is_in_order(numbers: Float64Array) -> bool:
    """Whether no value is below the one before, a few aside where most are above it."""
    steps = np.diff(numbers)
    falls = int(np.count_nonzero(steps < 0))
    rises = int(np.count_nonzero(steps > 0))
    return falls == 0 or (falls <= _most_odd(len(numbers)) and 2 * rises > len(numbers))


def _counts_up(column: SampleColumn) -> bool:
    """Whether the values are 0, 1, 2, ... or 1, 2, 3, ..., a few aside."""
    numbers = np.array([as_number(value) for value in column.values], dtype=np.float64)
    if len(numbers) < MIN_ROWS_TO_JUDGE:
        return False
    starts = numbers - np.arange(len(numbers))
    return any(np.count_nonzero(starts != start) <= _most_odd(len(numbers)) for start in (0, 1))


def _as_epochs(numbers: Float64Array) -> tuple[str, Float64Array]:
    """Return the unit in which all numbers but a few are times since 1970, or "", and those that are."""
    for unit, scale in EPOCH_UNITS.items():
        inside = (numbers >= LEAST_EPOCH_S * scale) & (numbers <= MOST_EPOCH_S * scale)
        if inside.any() and np.count_nonzero(~inside) <= _most_odd(len(numbers)):
            return unit, numbers[inside]
    return "", numbers[:0]
