"""Data frames of pandas, polars and Arrow as rows of numbers, by their columns' names; none is imported."""

from __future__ import annotations

import contextlib
from decimal import Decimal
from numbers import Real
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from datasentinel.errors import InvalidInputError
from datasentinel.tables import labels
from datasentinel.tables.roles import NUMBERING, assign, doubtful_flags, judge_values
from datasentinel.tables.sample_column import SAMPLE_ROWS, SampleColumn, to_float

if TYPE_CHECKING:
    from collections.abc import Collection, Hashable, Sequence

    import numpy.typing as npt

    from datasentinel.tables.roles import Columns, Roles
    from datasentinel.types import BoolArray, Float64Array

_SHOWN = 3


def is_frame(x: object) -> bool:
    """Whether `x` is a table of named columns: pandas, polars, or an Arrow table or batch.

    Raises
    ------
    InvalidInputError
        It is a plan for a table, without rows yet, as polars' `LazyFrame`.
    """
    if hasattr(x, "collect") and not hasattr(x, "shape"):
        raise InvalidInputError(f"x is a {type(x).__name__}, which holds no rows yet: collect() it first")
    return hasattr(x, "columns") and (hasattr(x, "column_names") or hasattr(x, "dtypes"))


def column_names(frame: Any) -> tuple[str, ...]:  # noqa: ANN401
    """Return the columns' names; empty for a frame whose columns are merely numbered."""
    names = frame.column_names if hasattr(frame, "column_names") else list(frame.columns)
    if all(not isinstance(name, str) for name in names) and list(names) == list(range(len(names))):
        return ()
    return tuple(map(str, names))


def _column(frame: Any, position: int) -> Any:  # noqa: ANN401
    if hasattr(frame, "iloc"):
        return frame.iloc[:, position]
    return frame.column(position) if hasattr(frame, "column") else frame.to_series(position)


def numbers_of(frame: Any, features: Sequence[str], others: Collection[str] = ()) -> Float64Array:  # noqa: ANN401
    """Return a frame's features as numbers, in the model's order.

    Parameters
    ----------
    frame : data frame
        See `is_frame`.
    features : sequence of str
        The model's features; empty to take all columns in their order. A frame whose columns are merely
        numbered is taken in its order, too.
    others : collection of str
        Columns that the frame may have besides.

    Returns
    -------
    float64 array, shape [N, D]
        A missing value is NaN, a duration is in seconds.

    Raises
    ------
    InvalidInputError
        A feature is missing or occurs twice, there is a column that the model does not know, or a column does
        not hold numbers; it is named.
    """
    names = column_names(frame)
    if not features or not (names or set(map(str, range(len(features)))) == set(features)):
        positions = list(range(frame.shape[1]))
    else:
        names = names or tuple(map(str, range(frame.shape[1])))
        _check_names(names, features, others)
        positions = [names.index(name) for name in features]
    numbers = np.empty((frame.shape[0], len(positions)))
    for i, position in enumerate(positions):
        name = names[position] if names else str(position)
        numbers[:, i] = _numbers(name, _column(frame, position))
    return numbers


def series_of(x: Any, name: object) -> list[Hashable] | None:  # noqa: ANN401
    """Return a frame's column that says which series a row belongs to; None where there is none.

    Rows without a value are of one series, None.
    """
    if name is None or not is_frame(x) or name not in (names := column_names(x)):
        return None
    values = _as_array(_column(x, names.index(name))).tolist()
    return [None if isinstance(value, float) and np.isnan(value) else value for value in values]


def row_of(x: Any, features: Sequence[str]) -> list[Any] | None:  # noqa: ANN401
    """Return a pandas series with the features' names, a row of a frame, in their order; None for others."""
    index = getattr(x, "index", None)
    if index is None or callable(index) or not hasattr(x, "iloc"):
        return None
    names = list(map(str, index))
    if len(names) != len(set(names)) or not set(features) <= set(names):
        return None
    return [x.iloc[names.index(name)] for name in features]


def _check_names(names: Sequence[str], features: Sequence[str], others: Collection[str]) -> None:
    lacking = [name for name in features if name not in names]
    unknown = [name for name in names if name not in set(features) and name not in others]
    for problem, found in (("lacks columns that the model needs", lacking), ("has unknown columns", unknown)):
        if found:
            shown = ", ".join(f"'{name}'" for name in found[:_SHOWN])
            more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
            raise InvalidInputError(f"x {problem}: {shown}{more}; the model takes {', '.join(features)}")
    if twice := next((name for name in features if list(names).count(name) > 1), None):
        raise InvalidInputError(f"x has the column '{twice}' more than once")


def _numbers(name: str, column: Any) -> npt.NDArray[Any]:  # noqa: ANN401
    values = _as_array(column)
    if values.dtype == object:
        with contextlib.suppress(InvalidInputError):
            return numbers_of_objects(values)
    if values.dtype.kind not in "fiub":
        kind = getattr(column, "dtype", None) or getattr(column, "type", values.dtype)
        raise InvalidInputError(f"column '{name}' must hold real numbers, got {kind}")
    return values


def numbers_of_objects(objects: npt.NDArray[Any]) -> Float64Array:
    """Return an array [N, D] or [D] of numbers of any type; what is missing is NaN.

    Raises
    ------
    InvalidInputError
        One of them is no real number; its row and column are named.
    """
    values = objects.ravel().tolist()
    kinds = set(map(type, values))
    missing = {kind for kind in kinds if kind.__name__ in {"NoneType", "NAType", "NaTType"}}
    wrong = {
        kind
        for kind in kinds - missing
        if not issubclass(kind, Real | Decimal | np.bool_) or kind.__name__ == "timedelta64"
    }
    if wrong:
        place = next(i for i, value in enumerate(values) if type(value) in wrong)
        row, column = divmod(place, objects.shape[-1])
        kind = type(values[place]).__name__
        raise InvalidInputError(
            f"the value at row {row}, column {column} is of type {kind}, not a real number"
        )
    numbers = [np.nan if type(value) in missing else to_float(value) for value in values]
    return np.array(numbers).reshape(objects.shape)


def _as_array(column: Any) -> npt.NDArray[Any]:  # noqa: ANN401
    """Return a column's values, durations in seconds."""
    if hasattr(column, "num_chunks") or not hasattr(column, "to_numpy"):
        values = np.asarray(column)
    else:
        try:
            # Arrow's single arrays copy only if allowed to.
            values = np.asarray(column.to_numpy(zero_copy_only=False))
        except TypeError:
            values = np.asarray(column.to_numpy())
    return values / np.timedelta64(1, "s") if values.dtype.kind == "m" else values


class Learnable(NamedTuple):
    """What there is to learn from.

    Attributes
    ----------
    rows : object
        The features; where no other columns are known of, what was given.
    facts : dict
        The other columns' roles, as config.json has them.
    is_anomaly : bool array, shape [N], or None
        Which rows are labelled as anomalies; None without a label.
    doubts : list of str
        What was decided without being asked for.
    """

    rows: object
    facts: dict[str, Any]
    is_anomaly: BoolArray | None
    doubts: list[str]


def learnable(x: object, asked: Roles) -> Learnable:
    """Take the features out of a frame with named columns; anything else is all features.

    Raises
    ------
    DataError
        A column asked for is not there, there is no feature, or it is unclear which column is the label or
        what its values mean.
    InvalidInputError
        A row has no label, or columns are asked for and have no names.
    """
    if not (is_frame(x) and column_names(x)):
        for role in ("features", "ignore", "time", "id", "label"):
            if told := getattr(asked, role):
                raise InvalidInputError(
                    f"{role}={told!r} names columns, and x has none with names: fit a data frame"
                )
        return Learnable(x, {}, None, [])
    columns = assign("x", _sample_of(x), asked, named=True)
    flags: list[str] = []
    if not asked.features:
        columns, flags = _judged(x, columns)
    doubts = [*map(str, columns.left_out), *flags]
    if columns.label is not None and asked.label is None:
        name = columns.names[columns.label]
        doubts.append(f"column '{name}' is taken as the label; if it is a feature, list the features")
    facts = columns.facts()
    rows = _select(x, columns.features) if facts or _has_mixed_names(x) else x
    return Learnable(_with_seconds(rows), facts, _anomalies_of(x, columns), doubts)


def _judged(frame: Any, columns: Columns) -> tuple[Columns, list[str]]:  # noqa: ANN401
    """Leave out columns that number the rows, and return a doubt about flags that may be labels."""
    try:
        columns_values = [_numbers(columns.names[i], _column(frame, i)) for i in columns.features]
    except InvalidInputError:  # scikit-learn says so of all columns alike.
        return columns, []
    values = np.column_stack(columns_values).astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        gone, _ = judge_values(columns.feature_names, values)
    numbering = [column for column in gone if column.reason.startswith(NUMBERING)]
    flags = doubtful_flags(columns.feature_names, values)
    return columns.without(numbering) if len(numbering) < len(columns.features) else columns, flags


def without(x: object, names: Collection[str], features: Collection[str] = ()) -> object:
    """Return a frame without some of its columns, by name, and with durations as seconds.

    Anything else is returned as it is.

    Columns that are merely numbered have their numbers for names where the model's features do.
    """
    if not is_frame(x):
        return x
    x = _with_seconds(x)
    if not names and not _has_mixed_names(x):
        return x
    numbers = tuple(map(str, range(len(features))))
    found = column_names(x) or (numbers if set(numbers) == set(features) else ())
    if not found:
        return x
    return _select(x, [i for i, name in enumerate(found) if name not in names])


def _with_seconds(frame: Any) -> Any:  # noqa: ANN401
    """Return a frame of pandas or polars with seconds for durations, which scikit-learn refuses."""
    if not hasattr(frame, "dtypes"):
        return frame
    for position, name in enumerate(frame.columns):
        column = _column(frame, position)
        if not any(word in str(column.dtype).lower() for word in ("timedelta", "duration")):
            continue
        seconds = _as_array(column)
        if hasattr(frame, "iloc"):
            frame = frame.copy(deep=False)
            frame.isetitem(position, seconds)
        else:
            frame = frame.with_columns(type(column)(name, seconds))
    return frame


def _has_mixed_names(frame: Any) -> bool:  # noqa: ANN401
    """Whether some columns are named and others numbered, which scikit-learn refuses."""
    return len({isinstance(name, str) for name in frame.columns}) > 1 if hasattr(frame, "iloc") else False


def _select(frame: Any, positions: Sequence[int]) -> Any:  # noqa: ANN401
    """Return a frame with these columns only, whose names are texts."""
    names = column_names(frame) or tuple(map(str, range(frame.shape[1])))
    wanted = [names[position] for position in positions]
    if hasattr(frame, "iloc"):
        return frame.iloc[:, list(positions)].set_axis(wanted, axis=1)
    return frame.select(wanted)


def _anomalies_of(frame: Any, columns: Columns) -> BoolArray | None:  # noqa: ANN401
    """Return which rows the label column calls anomalies, or None where there is no label."""
    if columns.label is None:
        return None
    told = labels.normalise_all(_as_array(_column(frame, columns.label)).tolist())
    known = [value for value in told if value is not None]
    if len(known) < len(told):
        raise InvalidInputError(
            f"x: column '{columns.names[columns.label]}' is empty in row {told.index(None)}"
        )
    return labels.decode("x", columns.names[columns.label], known, set(known), ())


def _sample_of(frame: Any) -> list[SampleColumn]:  # noqa: ANN401
    """Return a frame's columns with their first values, to judge them by."""
    names = column_names(frame) or ("",) * frame.shape[1]
    head = frame[:SAMPLE_ROWS]
    return [
        SampleColumn(name, [_plain(value) for value in _as_array(_column(head, i)).tolist()])
        for i, name in enumerate(names)
    ]


def _plain(value: object) -> object:
    return float(value) if isinstance(value, Decimal) else value
