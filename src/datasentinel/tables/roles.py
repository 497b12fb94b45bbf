"""Which columns of a table are features, and what the others are."""

from __future__ import annotations

import datetime as dt
import re
from collections import Counter
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import numpy as np

from datasentinel.errors import DataError
from datasentinel.tables import labels

if TYPE_CHECKING:
    from collections.abc import Sequence

    from datasentinel.types import Float64Array

_PANDAS_INDEX = re.compile(r"Unnamed: \d+|__index_level_\d+__|level_\d+")
_ID_NAME = re.compile(r"(?i:id|uuid|guid|uid)|.*[_\- .](?i:id|uuid|guid|uid)|.*[a-z](Id|ID|Uuid|UUID)")
_TIME_NAME = re.compile(
    r"(?i)(.*[_\- .])?(time|timestamp|timestamps|ts|date|datetime|epoch|unixtime|time_?(s|ms|us|ns))"
)
_ISO_TIME = re.compile(
    r"\d{4}[-/]?\d{2}[-/]?\d{2}([T ]\d{1,2}:?\d{2}(:?\d{2}([.,]\d+)?)?\s*(Z|UTC|[+-]\d{2}:?\d{2})?)?"
    r"|\d{1,2}[-/.]\d{1,2}[-/.]\d{2,4}([T ]+\d{1,2}:\d{2}(:\d{2}([.,]\d+)?)?( ?[AaPp][Mm])?)?"
    r"|\d{1,2}:\d{2}(:\d{2}([.,]\d+)?)?"
)
# Seconds from 1990 to 2100, and the same in ms, us and ns.
_EPOCH_S = (6.3e8, 4.2e9)
# A number as only people or Python read it: the column is one of numbers, and each such row is reported.
_SPOILT_NUMBER = re.compile(r"[+-]?[$€£]?\d[\d_,' ]*(\.\d*)?([eE][+-]?\d+)?\s*%?")
MISSING_WORDS = frozenset({"", "na", "n/a", "nan", "null", "none", "-", "?", "nat", "#n/a", "<na>"})
_MIN_ROWS_TO_JUDGE = 5


@dataclass(frozen=True)
class Roles:
    """What is asked of a table's columns.

    Attributes
    ----------
    features : tuple of str
        Names, or patterns such as 'm*', of the features; empty for all columns that are nothing else.
    ignore : tuple of str
        Names or patterns of columns to leave out.
    time, id, label : str or None
        Name or number (from 1; from -1 backwards) of the column that says when a row was taken, to which
        series it belongs, and whether it is an anomaly.
    normal : tuple of str
        Values of the label that mean normal; empty to find out.
    keep : tuple of str
        Names or patterns of further columns to hand through.
    carry : tuple of str
        Names of columns to hand through where the table has them.
    model_features : tuple of str
        The features of a model, which the table has to have; nothing is guessed then.
    num_features : int or None
        How many features a model takes: where a table without names, or for a model without, has as many
        columns, these are they.
    needs_label : bool
        Whether the label matters.
    may_lack : bool
        Whether a row may lack values; they are NaN then.
    """

    features: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    time: str | None = None
    id: str | None = None
    label: str | None = None
    normal: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()
    carry: tuple[str, ...] = ()
    model_features: tuple[str, ...] = ()
    num_features: int | None = None
    needs_label: bool = True
    may_lack: bool = False


@dataclass(frozen=True)
class LeftOut:
    """A column that is not a feature, and why."""

    name: str
    reason: str

    def __str__(self) -> str:
        return f"column '{self.name}' is left out: {self.reason}"


@dataclass(frozen=True)
class Columns:
    """What each column of a table is.

    Attributes
    ----------
    names : tuple of str
        All columns; "column 1", ... where the table names none.
    named : bool
        Whether the table names its columns.
    features : tuple of int
        The features, in the model's order.
    label, time, id : int or None
        The columns of these roles.
    keep : tuple of int
        Columns to hand through, time and id among them.
    left_out : tuple of LeftOut
        What nobody asked to leave out.
    may_lack : bool
        Whether a row may lack values of features; they are NaN then.
    """

    names: tuple[str, ...]
    named: bool
    features: tuple[int, ...]
    label: int | None = None
    time: int | None = None
    id: int | None = None
    keep: tuple[int, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    may_lack: bool = False

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names of the features; empty where the table has no names and every column is a feature."""
        if not self.named and len(self.features) + (self.label is not None) == len(self.names):
            return ()
        return tuple(self.names[column] for column in self.features)

    def describe(self, column: int) -> str:
        """Name a column for a message."""
        return f"column '{self.names[column]}'" if self.named else f"column {column + 1}"

    def name_of(self, column: int | None) -> str | None:
        """Return a column's name, or None for none."""
        return None if column is None else self.names[column]

    def facts(self) -> dict[str, Any]:
        """Return the names of the columns that are not features, for a model's configuration."""
        roles = {"time": self.time, "id": self.id, "label": self.label}
        facts: dict[str, Any] = {role: self.names[c] for role, c in roles.items() if c is not None}
        taken = {*self.features, *(c for c in roles.values() if c is not None)}
        if ignored := [name for column, name in enumerate(self.names) if column not in taken]:
            facts["ignored"] = ignored
        return facts

    def without(self, gone: Sequence[LeftOut]) -> Columns:
        """Leave out features."""
        names = {column.name for column in gone}
        kept = tuple(column for column in self.features if self.names[column] not in names)
        return replace(self, features=kept, left_out=(*self.left_out, *gone))


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

    @property
    def present(self) -> list[object]:
        """The values that are not missing."""
        return [value for value in self.values if not is_missing(value)]

    def numbers(self) -> Float64Array | None:
        """Return the values as numbers, NaN for spoilt ones; None if more than half are something else."""
        present = self.present
        numbers = np.array([as_number(value) for value in present], dtype=np.float64)
        spoilt = sum(isinstance(value, str) and _is_spoilt_number(value) for value in present)
        return None if 2 * (np.isnan(numbers).sum() - spoilt) >= len(present) else numbers


def is_missing(value: object) -> bool:
    """Whether a value stands for a missing one."""
    if isinstance(value, str):
        return value.strip().lower() in MISSING_WORDS
    return value is None or (isinstance(value, float) and np.isnan(value)) or str(value) == "NaT"


def _is_spoilt_number(text: str) -> bool:
    """Whether a text that is not a number was meant to be one."""
    stripped = text.strip()
    return bool(_SPOILT_NUMBER.fullmatch(stripped)) and np.isnan(as_number(text)) and not _is_time(stripped)


def as_number(value: object) -> float:
    """Return a number, or NaN for anything else."""
    if isinstance(value, str):
        text = value.strip()
        if text.lower() in ("true", "false"):
            return float(text.lower() == "true")
        try:
            return float(text) if text.isascii() and "_" not in text else np.nan
        except ValueError:
            return np.nan
    return float(value) if isinstance(value, int | float | np.number) else np.nan


def assign(
    where: str, sample: Sequence[SampleColumn], asked: Roles, *, named: bool, guess: bool = True
) -> Columns:
    """Decide what each column is.

    Parameters
    ----------
    where : str
        The table, for error messages.
    sample : sequence of SampleColumn
        All columns.
    asked : Roles
        What is asked.
    named : bool
        Whether the table names its columns.
    guess : bool
        Whether to leave out what does not look like a feature.

    Raises
    ------
    DataError
        A column asked for is not there, two have one name, there is no feature, or it is unclear which column
        is the label.
    """
    names = tuple(column.name or f"column {i}" for i, column in enumerate(sample, start=1))
    finder = _Finder(where, names, named=named)
    label = finder.find("label", asked.label) if asked.label is not None else None
    time = finder.find("time", asked.time) if asked.time is not None else None
    series = finder.find("id", asked.id) if asked.id is not None else None
    ignored = finder.matching("--ignore", asked.ignore)
    kept = tuple(names.index(name) for name in asked.carry if name in names)
    kept += finder.matching("--keep", asked.keep)
    others = {column for column in (label, time, series) if column is not None} | set(ignored)
    left_out: tuple[LeftOut, ...] = ()
    if asked.model_features and named:
        features = finder.of_model(asked.model_features)
    elif asked.model_features and set(asked.model_features) <= set(names):
        features = tuple(names.index(name) for name in asked.model_features)
    elif asked.features:
        features = tuple(c for c in finder.matching("--features", asked.features) if c not in ignored)
        if clash := [names[column] for column in features if column in others]:
            raise DataError(f"{where}: column '{clash[0]}' cannot be a feature and have another role")
    else:
        if label is None and named:
            label = _find_label(where, sample, names, others, needs_label=asked.needs_label)
            others |= {label} if label is not None else set()
        free = [column for column in range(len(names)) if column not in others]
        guess = guess and len(free) != asked.num_features
        found = {
            column: reason
            for column in free
            if guess and (reason := _why_no_feature(where, sample[column], named=named, first=column == 0))
        }
        left_out = tuple(LeftOut(names[column], reason) for column, reason in found.items())
        if time is None:
            time = next((column for column, why in found.items() if why.startswith(_TIMESTAMP)), None)
        features = tuple(c for c in free if c not in found)
    if label is None and named and asked.needs_label:
        taken = {*others, *features, *(c for c in (time, series) if c is not None)}
        label = _find_label(where, sample, names, taken, needs_label=bool(asked.model_features))
    if not features:
        why = "; ".join(map(str, left_out))
        raise DataError(f"{where}: no feature columns{': ' * bool(why)}{why}")
    for column in features:
        if nested := sample[column].nested:
            raise DataError(
                f"{where}: column '{names[column]}' holds {nested}, not numbers; leave it out with --ignore"
            )
    finder.check_unique([names[c] for c in (*features, label, time, series, *kept) if c is not None])
    keep = tuple(dict.fromkeys(c for c in (time, series, *kept) if c is not None))
    return Columns(names, named, features, label, time, series, keep, left_out, asked.may_lack)


class _Finder:
    """Finds columns by name, number or pattern."""

    def __init__(self, where: str, names: tuple[str, ...], *, named: bool) -> None:
        self._where = where
        self._names = names
        self._named = named

    def find(self, role: str, told: str) -> int:
        if told in self._names:
            return self._names.index(told)
        width = len(self._names)
        try:
            number = int(told)
        except ValueError:
            there = f"; the columns are {', '.join(self._names)}" if self._named else _NO_NAMES
            raise DataError(f"{self._where}: no {role} column '{told}'{there}") from None
        if number == 0 or not -width <= number <= width:
            raise DataError(
                f"{self._where}: no {role} column {number}: there are {width} columns, counted from 1"
            )
        return number - 1 if number > 0 else width + number

    def matching(self, option: str, patterns: Sequence[str]) -> tuple[int, ...]:
        found: dict[int, None] = {}
        for pattern in patterns:
            columns = [i for i, name in enumerate(self._names) if name == pattern]
            columns = columns or [i for i, name in enumerate(self._names) if fnmatchcase(name, pattern)]
            if not columns and pattern.lstrip("-").isdecimal():
                columns = [self.find(option, pattern)]
            if not columns and not any(c in pattern for c in "*?["):
                there = f"; the columns are {', '.join(self._names)}" if self._named else _NO_NAMES
                raise DataError(f"{self._where}: {option}: no column '{pattern}'{there}")
            found |= dict.fromkeys(columns)
        return tuple(found)

    def of_model(self, features: Sequence[str]) -> tuple[int, ...]:
        missing = [name for name in features if name not in self._names]
        if missing:
            first = ", ".join(f"'{name}'" for name in missing[:3])
            more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
            raise DataError(f"{self._where}: lacks columns that the model needs: {first}{more}")
        return tuple(self._names.index(name) for name in features)

    def check_unique(self, wanted: Sequence[str]) -> None:
        counts = Counter(self._names)
        for name in wanted:
            if counts[name] > 1:
                raise DataError(f"{self._where}: column name '{name}' occurs more than once")


_NO_NAMES = ", and the file names no columns"
_TIMESTAMP = "timestamps"


def _find_label(
    where: str, sample: Sequence[SampleColumn], names: Sequence[str], taken: set[int], *, needs_label: bool
) -> int | None:
    """Find the label by its name and, where the name alone does not tell, by its values."""
    free = [column for column in range(len(names)) if column not in taken]
    certain = [column for column in free if labels.is_label_name(names[column])]
    possible, unclear = [], []
    for column in free:
        if not labels.may_be_label_name(names[column]) or sample[column].nested:
            continue
        values = {labels.normalise(value) for value in sample[column].present} - {None}
        if labels.looks_like_labels(values):  # type: ignore[arg-type]
            possible.append(column)
        elif labels.could_be_classes(values):  # type: ignore[arg-type]
            unclear.append(column)
    found = certain or possible
    if not needs_label:
        return found[0] if found else None
    if len(found) > 1 or (unclear and not found):
        told = "' and '".join(names[column] for column in found or unclear)
        raise DataError(
            f"{where}: is column '{told}' the label? Say which one is with --label, or leave out with "
            "--ignore what is neither label nor feature, or name the features with --features"
        )
    return found[0] if found else None


def _why_no_feature(where: str, column: SampleColumn, *, named: bool, first: bool) -> str:
    """Return why a column should not be learnt from, or an empty string."""
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
        return _TIMESTAMP if all(map(_is_time, column.present)) else _text_reason(column)
    if not named and first and _counts_up(numbers):
        return "it counts the rows"
    return _why_no_feature_by_numbers(column.name, numbers)


def _why_no_feature_by_numbers(name: str, numbers: Float64Array) -> str:
    if _is_epoch(numbers) and (_rises(numbers) or _TIME_NAME.fullmatch(name)):
        return f"{_TIMESTAMP} ({_epoch_unit(numbers)} since 1970)"
    if _TIME_NAME.fullmatch(name) and len(numbers) > 1 and bool(np.all(np.diff(numbers) >= 0)):
        return f"{_TIMESTAMP}, by its name and order"
    if _ID_NAME.fullmatch(name) and bool(np.all(numbers == np.round(numbers))):
        return "an identifier, by its name"
    return ""


def _text_reason(column: SampleColumn) -> str:
    return "an identifier, by its name" if _ID_NAME.fullmatch(column.name) else "it holds text"


def _is_time(value: object) -> bool:
    if isinstance(value, str):
        return _ISO_TIME.fullmatch(value.strip()) is not None
    return isinstance(value, dt.date | dt.time | dt.timedelta | np.datetime64 | np.timedelta64)


def _rises(numbers: Float64Array) -> bool:
    return len(numbers) >= 3 and bool(np.all(np.diff(numbers) > 0))


def _counts_up(numbers: Float64Array) -> bool:
    start = numbers[0]
    if start not in (0, 1) or len(numbers) < _MIN_ROWS_TO_JUDGE:
        return False
    return bool(np.array_equal(numbers, np.arange(start, start + len(numbers))))


def _epoch_unit(numbers: Float64Array) -> str:
    low, high = _EPOCH_S
    for unit, scale in (("seconds", 1.0), ("ms", 1e3), ("µs", 1e6), ("ns", 1e9)):
        if bool(np.all((numbers >= low * scale) & (numbers <= high * scale))):
            return unit
    return ""


def _is_epoch(numbers: Float64Array) -> bool:
    return bool(_epoch_unit(numbers))


def judge_values(names: Sequence[str], values: Float64Array) -> tuple[list[LeftOut], list[str]]:
    """Inspect all rows of the features that nobody asked for by name.

    Parameters
    ----------
    names : sequence of str
        The features' names.
    values : float64 array, shape [N, D]
        Their values.

    Returns
    -------
    constant : list of LeftOut
        Columns with one value only.
    warnings : list of str
        What is odd about the others.
    """
    if len(values) < 2:
        return [], []
    constant = [
        LeftOut(name, f"it is {values[0, i]:g} in every row")
        for i, name in enumerate(names)
        if np.all(values[:, i] == values[0, i])
    ]
    if len(values) < _MIN_ROWS_TO_JUDGE:
        return constant, []
    steps = ((name, np.diff(values[:, i])) for i, name in enumerate(names))
    warnings = [
        f"column '{name}' only {'rises' if step[0] > 0 else 'falls'}, as a counter or a clock does: values "
        "beyond those trained on will look abnormal; --ignore leaves it out"
        for name, step in steps
        if np.all(step > 0) or np.all(step < 0)
    ]
    return constant, warnings
