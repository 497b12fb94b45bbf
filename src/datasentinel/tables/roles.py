"""Which columns of a table are features, and what the others are."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import numpy as np

from datasentinel.errors import DataError
from datasentinel.tables import labels
from datasentinel.tables.sample_column import MIN_ROWS_TO_JUDGE, TIMESTAMP, why_no_feature
from datasentinel.tables.text_format import NOTHING_KNOWN, TextFormat

if TYPE_CHECKING:
    from collections.abc import Sequence

    from datasentinel.tables.sample_column import SampleColumn
    from datasentinel.types import BoolArray, Float64Array


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
    day_first : bool or None
        Whether dates that do not begin with the year begin with the day or with the month; None to decide by
        all of them.
    normal : tuple of str
        Values of the label that mean normal; empty to infer them.
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
    text : TextFormat
        How text was written in the tables that a model was trained on, which holds for this one, too.
    """

    features: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    time: str | None = None
    id: str | None = None
    label: str | None = None
    day_first: bool | None = None
    normal: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()
    carry: tuple[str, ...] = ()
    model_features: tuple[str, ...] = ()
    num_features: int | None = None
    needs_label: bool = True
    may_lack: bool = False
    text: TextFormat = NOTHING_KNOWN


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
        What is left out without being asked for.
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
    label, time, series = (
        None if told is None else finder.find(role, told)
        for role, told in (("label", asked.label), ("time", asked.time), ("id", asked.id))
    )
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
            by_sound = asked.needs_label and len(names) - len(others) != asked.num_features
            label = _find_label(
                where, sample, names, others, needs_label=asked.needs_label, by_sound=by_sound
            )
            others |= {label} if label is not None else set()
        free = [column for column in range(len(names)) if column not in others]
        guess = guess and len(free) != asked.num_features
        found = {
            column: reason
            for column in free
            if guess and (reason := why_no_feature(where, sample[column], named=named, first=column == 0))
        }
        if label is not None and guess:
            second = f"it marks rows as '{names[label]}' does; list the features to keep it"
            found |= {c: second for c in free if c not in found and _is_second(sample[c], sample[label])}
        left_out = tuple(LeftOut(names[column], reason) for column, reason in found.items())
        if time is None:
            time = next((column for column, why in found.items() if why.startswith(TIMESTAMP)), None)
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


def _find_label(
    where: str,
    sample: Sequence[SampleColumn],
    names: Sequence[str],
    taken: set[int],
    *,
    needs_label: bool,
    by_sound: bool = True,
) -> int | None:
    """Find the label by its name and, where the name alone does not decide, by its values.

    With `by_sound` it may be a rare flag whose name merely sounds like a label.
    """
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
    loosely = [] if unclear or not by_sound else [column for column in free if _is_flag(sample[column])]
    # Several are the bits of a machine's status.
    is_rare = len(loosely) == 1 and _is_flag(sample[loosely[0]], rare=True)
    found = certain or possible or (loosely if is_rare else [])
    if not needs_label:
        return found[0] if found else None
    if len(found) > 1 or (unclear and not found):
        told = "' and '".join(names[column] for column in found or unclear)
        raise DataError(
            f"{where}: is column '{told}' the label? Say which one is with --label, or leave out with "
            "--ignore what is neither label nor feature, or name the features with --features"
        )
    return found[0] if found else None


def _is_flag(column: SampleColumn, *, rare: bool = False) -> bool:
    """Whether a column sounds like a label and holds flags, few of which mean an anomaly if `rare`."""
    if column.nested or not labels.sounds_like_label(column.name):
        return False
    values = [value for value in map(labels.normalise, column.present) if value is not None]
    return labels.is_rare_flag(values) if rare else labels.is_flag(values)


def _is_second(column: SampleColumn, label: SampleColumn) -> bool:
    """Whether a column is one more label: by its name, or as most rows that either marks have both."""
    if not _is_flag(column, rare=True):
        return False
    if labels.is_annotation(column.name):
        return True
    flags, told = _marked(column), _marked(label)
    both = int((flags & told).sum())
    return both >= MIN_ROWS_TO_JUDGE and 2 * both >= int((flags | told).sum())


def _marked(label: SampleColumn) -> BoolArray:
    """Return which rows a label marks, shape [n]; none where its values do not tell."""
    values = [labels.normalise(value) for value in label.values]
    try:
        normal = labels.is_normal_by_value("", label.name, {value for value in values if value is not None})
    except DataError:
        return np.zeros(len(values), dtype=np.bool_)
    return np.array([value is not None and not normal[value] for value in values], dtype=np.bool_)


# How the reason begins that a column is left out for which identifies the rows.
NUMBERING = "it numbers the rows"
# Of all numbers being different: a chance of less than one in a million.
_BEYOND_CHANCE = 14.0
# Correlation of a value with the one before.
_IN_NO_ORDER = 0.5


def judge_values(names: Sequence[str], values: Float64Array) -> tuple[list[LeftOut], list[str]]:
    """Inspect all rows of the features that were not asked for by name.

    Parameters
    ----------
    names : sequence of str
        The features' names.
    values : float64 array, shape [N, D]
        Their values.

    Returns
    -------
    gone : list of LeftOut
        Columns with one value only, and those that number the rows.
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
    if len(values) < MIN_ROWS_TO_JUDGE:
        return constant, []
    numbering, warnings = [], []
    for i, name in enumerate(names):
        steps = np.diff(values[:, i])
        if np.all(steps > 0) or np.all(steps < 0):
            warnings.append(
                f"column '{name}' only {'rises' if steps[0] > 0 else 'falls'}, as a counter or a clock does: "
                "values beyond those trained on will look abnormal; --ignore leaves it out"
            )
        elif _is_numbering(values[:, i]):
            if abs(np.corrcoef(values[1:, i], values[:-1, i])[0, 1]) < _IN_NO_ORDER:
                numbering.append(LeftOut(name, f"{NUMBERING}: whole numbers, each there once, in no order"))
            else:
                warnings.append(
                    f"column '{name}' has a whole number of its own for every row, as an identifier does; "
                    "--ignore leaves it out"
                )
    return constant + numbering, warnings + doubtful_flags(names, values)


def doubtful_flags(names: Sequence[str], values: Float64Array) -> list[str]:
    """Return a warning that names the features, values [N, D], that are flags and sound like labels."""
    found = [
        name
        for i, name in enumerate(names)
        if labels.sounds_like_label(name)
        and set(np.unique(values[~np.isnan(values[:, i]), i])) in ({0, 1}, {-1, 1})
    ]
    if not found:
        return []
    told = "', '".join(found)
    return [
        f"learnt from though it sounds like a label: '{told}'; say which column is the label, or ignore what "
        "is no feature"
    ]


def _is_numbering(values: Float64Array) -> bool:
    """Whether whole numbers are all different, where those of independent rows would not be.

    Of n numbers drawn from a range of R, all differ with a chance of at most exp(-n (n - 1) / 2R), whatever
    their distribution (the birthday problem).
    """
    count, span = len(values), float(np.ptp(values)) + 1
    if (
        count > span
        or count * (count - 1) / (2 * span) < _BEYOND_CHANCE
        or np.any(values != np.floor(values))
    ):
        return False
    return len(np.unique(values)) == count
