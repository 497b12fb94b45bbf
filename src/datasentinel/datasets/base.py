"""What every kind of data file has in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from datasentinel.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import numpy.typing as npt

    from datasentinel.types import BoolArray, Float64Array

_CHUNK_VALUES = 1 << 20  # values a chunk, 8 MiB of float64


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be used.

    Attributes
    ----------
    row : int
        Position among the file's data rows, from 0.
    line : int or None
        Line of a text file, from 1.
    reason : str
        What is wrong with it.
    """

    row: int
    line: int | None
    reason: str

    def __str__(self) -> str:
        place = f"row {self.row}" if self.line is None else f"line {self.line}"
        return f"{place}: {self.reason}"


@dataclass(frozen=True)
class Chunk:
    """A run of consecutive rows of a file.

    Attributes
    ----------
    rows : int64 array, shape [n]
        Positions of the good rows among the file's data rows, from 0.
    values : float64 array, shape [n, D]
        The good rows' features, finite also as float32.
    labels : bool array, shape [n], or None
        Whether a row is an anomaly, where the file says so.
    bad : sequence of BadRow
        The rows in between that cannot be used.
    share_read : float
        How much of the file has been read after this chunk, between 0 and 1.
    """

    rows: npt.NDArray[np.int64]
    values: Float64Array
    labels: BoolArray | None
    bad: Sequence[BadRow]
    share_read: float


@dataclass(frozen=True)
class Dataset:
    """A whole file in memory: the good rows of all its chunks, and all bad rows."""

    values: Float64Array
    labels: BoolArray | None
    feature_names: tuple[str, ...]
    bad: Sequence[BadRow]


@dataclass(frozen=True)
class Columns:
    """Which columns of a file are features, and which one is the label."""

    features: tuple[int, ...]
    label: int | None
    names: tuple[str, ...]  # of all columns of the file, or empty

    @property
    def wanted(self) -> tuple[int, ...]:
        """The features and, at the end, the label if there is one."""
        return self.features if self.label is None else (*self.features, self.label)

    def describe(self, column: int) -> str:
        """Name a column for an error message."""
        return f"column '{self.names[column]}'" if self.names else f"column {column + 1}"

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names of the features, or empty."""
        return tuple(self.names[column] for column in self.features) if self.names else ()


class DataFile(ABC):
    """An open-able file of rows; `open_data` makes one.

    Attributes
    ----------
    path : Path
        The file.
    feature_names : tuple of str
        Names of the features, or empty where the file has none.
    num_features : int
        Number of features, D.
    has_labels : bool
        Whether the chunks carry labels.
    """

    def __init__(self, path: Path, columns: Columns, *, has_labels: bool) -> None:
        self.path = path
        self.feature_names = columns.feature_names
        self.num_features = len(columns.features)
        self.has_labels = has_labels
        self._columns = columns

    @property
    def chunk_rows(self) -> int:
        """Default number of rows a chunk, so that a chunk's memory does not depend on D."""
        return max(1, _CHUNK_VALUES // max(1, self.num_features))

    @abstractmethod
    def chunks(self, chunk_rows: int | None = None) -> Iterator[Chunk]:
        """Read the file from its start, `chunk_rows` rows at a time."""

    def read(self) -> Dataset:
        """Read the whole file."""
        chunks = list(self.chunks())
        empty = np.empty((0, self.num_features))
        labels = [chunk.labels for chunk in chunks if chunk.labels is not None]
        return Dataset(
            values=np.concatenate([empty, *(chunk.values for chunk in chunks)]),
            labels=np.concatenate([np.empty(0, bool), *labels]) if self.has_labels else None,
            feature_names=self.feature_names,
            bad=[bad for chunk in chunks for bad in chunk.bad],
        )

    def _chunk(
        self,
        values: Float64Array,
        labels: Float64Array | None,
        rows: npt.NDArray[np.int64],
        *,
        share_read: float,
        lines: Sequence[int] | None = None,
        bad: Sequence[BadRow] = (),
    ) -> Chunk:
        """Split off the rows whose numbers cannot be used; `bad` are rows already split off."""
        with np.errstate(over="ignore"):
            usable = np.isfinite(values.astype(np.float32))
        good = usable.all(axis=1)
        if labels is not None:
            good &= np.isfinite(labels)
        found = list(bad)
        for i in np.flatnonzero(~good).tolist():
            wrong = np.flatnonzero(~usable[i])
            if wrong.size:
                value = values[i, wrong[0]]
                what = "does not fit float32" if np.isfinite(value) else "is not finite"
                reason = f"{self._columns.describe(self._columns.features[wrong[0]])}: {value} {what}"
            else:
                assert labels is not None  # noqa: S101
                reason = f"label {labels[i]} is not finite"
            found.append(BadRow(int(rows[i]), lines[i] if lines is not None else None, reason))
        if not good.all():
            values, rows = values[good], rows[good]
            labels = labels[good] if labels is not None else None
        found.sort(key=lambda bad_row: bad_row.row)
        return Chunk(rows, values, labels != 0 if labels is not None else None, found, share_read)


def select_columns(
    path: Path, names: tuple[str, ...], width: int, label: str | None, features: Sequence[str]
) -> Columns:
    """Decide which of a file's `width` columns are features and which one is the label."""
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise DataError(f"{path}: column name '{twice[0]}' occurs more than once")
    label_column = _find_label(path, names, width, label)
    if names and features:
        missing = [name for name in features if name not in names]
        if missing:
            first = ", ".join(f"'{name}'" for name in missing[:3])
            more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
            raise DataError(f"{path}: lacks columns that the model needs: {first}{more}")
        chosen = tuple(names.index(name) for name in features)
    else:
        chosen = tuple(column for column in range(width) if column != label_column)
    if not chosen:
        raise DataError(f"{path}: no feature columns")
    return Columns(chosen, label_column, names)


def _find_label(path: Path, names: tuple[str, ...], width: int, label: str | None) -> int | None:
    if label is None:
        return width - 1 if names and names[-1].lower() == "label" else None
    if label in names:
        return names.index(label)
    try:
        number = int(label)
    except ValueError:
        there = f"; the columns are {', '.join(names)}" if names else ", and the file names no columns"
        raise DataError(f"{path}: no label column '{label}'{there}") from None
    if number == 0 or not -width <= number <= width:
        raise DataError(f"{path}: no label column {number}: there are {width} columns, counted from 1")
    return number - 1 if number > 0 else width + number
