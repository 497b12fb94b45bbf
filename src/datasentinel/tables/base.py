"""What every kind of table has in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from datasentinel import calendar_time
from datasentinel.errors import DataError
from datasentinel.tables import labels
from datasentinel.tables.chunk import Chunk
from datasentinel.tables.pipeline import ordered_map
from datasentinel.tables.problems import BadRow, ProblemKind, Problems
from datasentinel.tables.roles import judge_values
from datasentinel.tables.sampling import Reservoir
from datasentinel.tables.text_format import NOTHING_KNOWN, TextFormat
from datasentinel.tables.time_column import CalendarColumn, TimeColumn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import numpy.typing as npt

    from datasentinel.tables.number_marks import Marks
    from datasentinel.tables.roles import Columns, Roles
    from datasentinel.tables.sample_column import SampleColumn
    from datasentinel.types import BoolArray, Float64Array, Int64Array

# Values a block: 1 MiB of float32, which stays in a core's cache while columns are put into rows.
_BLOCK_VALUES = 1 << 18


@dataclass(frozen=True)
class Block:
    """Some rows as they were read, not yet parsed.

    Attributes
    ----------
    part : Part
        Where they are from, and what can parse them.
    content : object
        Bytes, or a batch of columns.
    share_read : float
        How much of the table has been read after this block, between 0 and 1.
    """

    part: Part
    content: Any
    share_read: float


@dataclass(frozen=True)
class Dataset:
    """A whole table, or a sample of it, in memory: the good rows, and an account of the bad ones.

    Attributes
    ----------
    values : float64 array, shape [N, D]
    labels : bool array, shape [N], or None
        Which rows are anomalies, where the table says so.
    columns : Columns
        What each column of the table is.
    feature_names : tuple of str
        Names of the features, or empty where the table has none.
    problems : Problems
        The bad rows.
    num_rows : int
        How many good rows the table has; more than N for a sample.
    warnings : list of str
        What is odd about the columns, those of the table first.
    times_s : float64 array, shape [N], or None
        When each row was taken, in seconds since 1970 or some beginning, NaN where that is missing; where
        that was asked for, a column says so and the rows are not a sample.
    first_untimed : int or None
        Position of the first of them without a time.
    series : list, length N, or None
        To which series each row belongs, likewise.
    text : TextFormat
        How numbers and dates are written, as far as that was found out.
    """

    values: Float64Array
    labels: BoolArray | None
    columns: Columns
    feature_names: tuple[str, ...]
    problems: Problems
    num_rows: int
    warnings: list[str]
    times_s: Float64Array | None = None
    first_untimed: int | None = None
    series: list[Any] | None = None
    text: TextFormat = NOTHING_KNOWN

    @property
    def bad(self) -> list[BadRow]:
        """The first bad rows."""
        return self.problems.first


class Part(ABC):
    """One file of a table, or one array or frame in memory.

    Attributes
    ----------
    name : str
        For messages.
    is_named : bool
        Whether it names its columns.
    has_other_columns : bool
        Whether a column may be no feature, which is found by its name and values.
    label_name : str or None
        The column that the format itself says to be the label.
    columns : Columns
        What each column is, once `bind` has said so.
    warnings : tuple of str
        What is read in doubt.
    marks : Marks or None
        Which ones numbers in text have, where they have some.
    """

    name: str
    is_named = True
    has_other_columns = True
    label_name: str | None = None
    columns: Columns
    warnings: tuple[str, ...] = ()
    marks: Marks | None = None

    @abstractmethod
    def sample(self) -> list[SampleColumn]:
        """Return the columns with their first values."""

    def bind(self, columns: Columns) -> None:
        """Say what each column is, before rows are read."""
        self.columns = columns

    @property
    def is_rereadable(self) -> bool:
        """Whether `blocks` can be called again: a pipe can be read only once."""
        return True

    @abstractmethod
    def blocks(self, block_rows: int | None) -> Iterator[tuple[Any, float]]:
        """Read from the start: contents of blocks, and the share read after each."""

    @abstractmethod
    def parse(self, content: Any, dtype: type) -> Chunk:  # noqa: ANN401
        """Parse what `blocks` yielded. Rows and lines count from the block's start. Thread-safe."""

    @property
    def first_line(self) -> int | None:
        """Number of the first line that `blocks` reads, from 1; None where there are no lines."""
        return None


class Table:
    """Rows of numbers out of one or several files; `open_table` makes one.

    Attributes
    ----------
    name : str
        The files, in words.
    columns : Columns
        What each column is.
    feature_names : tuple of str
        Names of the features, or empty where the table has none.
    num_features : int
        Number of features, D.
    has_labels : bool
        Whether a column says which rows are anomalies.
    warnings : list of str
        What is doubtful about how the features are read.
    """

    def __init__(self, name: str, parts: Sequence[Part], columns: Columns, asked: Roles) -> None:
        self.name = name
        self.columns = columns
        self.feature_names = columns.feature_names
        self.num_features = len(columns.features)
        self.has_labels = columns.label is not None
        self.warnings = list(dict.fromkeys(warning for part in parts for warning in part.warnings))
        self._parts = parts
        self._asked = asked
        self._calendar: CalendarColumn | None = None
        self._time: TimeColumn | None = None

    def add_calendar(self, zone: str) -> None:
        """Append the second of the week in a time zone as one more feature.

        Raises
        ------
        DataError
            No column of times is known.
        """
        time = self.time_column()
        if time is None:
            raise DataError(
                f"{self.name}: a season needs the times of the rows; name their column with --time"
            )
        self._calendar = CalendarColumn(time, zone)
        self.num_features += 1
        self.feature_names = self._named(self.columns)

    def time_column(self) -> TimeColumn | None:
        """Return the column of times and how it is read, which may take a look at all of the table.

        Raises
        ------
        DataError
            Dates that do not begin with the year leave open whether the day or the month comes first, or
            contradict those that a model was trained on.
        """
        column = self.columns.time
        name = self.columns.name_of(column)
        if name is None or column is None or self._time is not None:
            return self._time
        if (day_first := self._asked.day_first) is not None:
            self._time = TimeColumn(name, "day" if day_first else "month")
        else:
            values = self._values_of(name, column)
            self._time = TimeColumn.decide(self.name, name, values, self._asked.text.date_order)
        return self._time

    def _readable_times(self, warnings: list[str], *, needed: bool) -> TimeColumn | None:
        """Return the column of times; unless it is needed, unclear dates are a warning, and not read."""
        try:
            return self.time_column()
        except DataError as error:
            if needed:
                raise
            warnings.append(str(error))
            return TimeColumn(self.columns.name_of(self.columns.time) or "")

    def _values_of(self, name: str, column: int) -> Iterator[Sequence[object]]:
        """Read a column that is handed through: its first values, then all if it can be read again."""
        yield self._parts[0].sample()[column].values
        if all(part.is_rereadable for part in self._parts):
            for chunk in self.chunks():
                yield chunk.plain_values(name)

    def parse(self, block: Block, dtype: type) -> Chunk:
        """Parse a block, whose rows and lines count from its start; thread-safe."""
        chunk = replace(block.part.parse(block.content, dtype), share_read=block.share_read)
        return chunk if self._calendar is None else self._calendar.add(chunk)

    def blocks(self, block_rows: int | None = None) -> Iterator[Block]:
        """Read the table from its start, not yet parsed."""
        for i, part in enumerate(self._parts):
            for content, share in part.blocks(block_rows):
                yield Block(part, content, (i + share) / len(self._parts))

    def placer(self) -> Callable[[Part, Chunk], Chunk]:
        """Return a function that numbers the rows and lines of chunks, given in order."""
        row = line = 0
        last: Part | None = None

        def place(part: Part, chunk: Chunk) -> Chunk:
            nonlocal row, line, last
            if part is not last:
                last, line = part, 0
            placed = self._placed(part, chunk, row, line)
            row += chunk.num_rows
            line += chunk.num_lines
            return placed

        return place

    def _placed(self, part: Part, chunk: Chunk, row: int, line: int) -> Chunk:
        file = part.name if len(self._parts) > 1 else ""
        first_line = part.first_line
        bad = [
            replace(
                wrong,
                row=wrong.row + row,
                line=None if first_line is None or wrong.line is None else wrong.line + line + first_line,
                file=file,
            )
            for wrong in chunk.bad
        ]
        return replace(chunk, rows=chunk.rows + row, bad=bad, first_row=row)

    def chunks(
        self, block_rows: int | None = None, *, dtype: type = np.float64, threads: int = 1
    ) -> Iterator[Chunk]:
        """Read and parse the table from its start, on several threads if wanted."""

        def parse(block: Block) -> tuple[Part, Chunk]:
            return block.part, self.parse(block, dtype)

        place = self.placer()
        for part, chunk in ordered_map(parse, self.blocks(block_rows), threads):
            yield place(part, chunk)

    def read(
        self,
        *,
        max_rows: int | None = None,
        seed: int = 0,
        threads: int = 1,
        judge_columns: bool = False,
        with_times: bool = False,
        needs_times: bool = True,
        with_series: bool = False,
        progress: Callable[[float], None] = lambda _share: None,
    ) -> Dataset:
        """Read the whole table, or a random sample of its good rows in the table's order.

        Parameters
        ----------
        max_rows : int, optional
            Most rows to keep; each good row has the same chance.
        seed : int
            For the sample.
        threads : int
            Threads to parse on.
        judge_columns : bool
            Leave out features that are the same in every row or number the rows, where the table names its
            columns and the caller did not name the features, and warn of ones that only rise or only fall.
        with_times, with_series : bool
            Keep the times and the series of the rows.
        needs_times : bool
            Whether, with times, what is there and no time makes a bad row, and unclear dates are an error;
            otherwise such times are NaN, and a warning says why.
        progress : callable
            Called with the share read so far.

        Raises
        ------
        DataError
            The table cannot be read, or its labels or dates are unclear.
        """
        if self._asked.normal and not self.has_labels:
            raise DataError(
                f"{self.name}: --normal says which labels mean normal, but no column is the label: name it "
                "with --label"
            )
        problems = Problems()
        seen: set[str | float] = set()
        warnings = list(self.warnings)
        time = self._readable_times(warnings, needed=needs_times) if with_times else None
        id_name = self.columns.name_of(self.columns.id) if with_series else None
        times: list[Float64Array] = []
        first_untimed: int | None = None
        series: list[Any] = []
        kept = Reservoir(self.num_features, max_rows, seed, with_labels=self.has_labels)
        for chunk in self.chunks(threads=threads):
            if time is not None:
                times_s = time.seconds(chunk)
                is_unsaid = len(warnings) == len(self.warnings)
                wrong = time.bad_rows(chunk, times_s, may_lack=True) if needs_times or is_unsaid else []
                if needs_times:
                    times_s = times_s[~np.isin(chunk.rows, [bad.row for bad in wrong])]
                    chunk = chunk.without(wrong)  # noqa: PLW2901
                elif wrong:
                    warnings.append(f"{self.name}: {wrong[0].reason}")
                times.append(times_s)
                if first_untimed is None and np.isnan(times_s).any():
                    first_untimed = int(chunk.rows[np.isnan(times_s)][0])
            problems.add(chunk.bad)
            if chunk.label_values is not None:
                seen.update(chunk.label_values)
            kept.add(chunk.values, chunk.label_values)
            if id_name is not None:
                series += chunk.good_values(id_name)
            progress(chunk.share_read)
        values, label_values = kept.result()
        decoded = None
        if label_values is not None:
            column = self.columns.name_of(self.columns.label) or ""
            decoded = labels.decode(self.name, column, label_values, seen, self._asked.normal)
        columns = self.columns
        if judge_columns and columns.named and not (self._asked.features or self._asked.model_features):
            normal = values if decoded is None else values[~decoded]
            gone, odd = judge_values(columns.feature_names, normal[:, : len(columns.features)])
            warnings += odd
            if 0 < len(gone) < len(columns.features):
                left = {column.name for column in gone}
                stays = [name not in left for name in self._named(columns)]
                values, columns = np.ascontiguousarray(values[:, stays]), columns.without(gone)
        whole = kept.seen == len(values)
        return Dataset(
            values,
            decoded,
            columns,
            self._named(columns),
            problems,
            kept.seen,
            warnings,
            times_s=np.concatenate(times) if whole and times else None,
            first_untimed=first_untimed,
            series=series if whole and id_name is not None else None,
            text=TextFormat(
                next((part.marks for part in self._parts if part.marks is not None), None),
                None if self._time is None else self._time.date_order,
            ),
        )

    def _named(self, columns: Columns) -> tuple[str, ...]:
        """Return the features' names, that of the calendar's column among them."""
        names = columns.feature_names
        return (*names, calendar_time.COLUMN) if names and self._calendar else names


def block_rows_for(width: int) -> int:
    """Return a number of rows a block, so that a block's memory does not depend on the width."""
    return max(1, _BLOCK_VALUES // max(1, width))


def split_off_bad(
    numbers: npt.NDArray[Any],
    columns: Columns,
    label_values: list[str | float | None] | None,
    original: Callable[[int, int], Any] | None = None,
) -> Chunk:
    """Make a chunk of rows [n, D] in which a missing value is NaN, and the labels that `normalise` returned.

    Rows that lack values are good ones where the columns say that they may.

    Formats that distinguish a missing value from NaN, or exceed float32, say by `original` what is in a
    row and column: a number, or None.
    """
    if numbers.dtype == np.float32 and label_values is None and np.isfinite(_sum(numbers)):
        # Quick, and right: a sum is not finite if any of the numbers is not.
        return Chunk(len(numbers), np.arange(len(numbers)), numbers)
    with np.errstate(over="ignore"):
        usable = np.isfinite(numbers.astype(np.float32, copy=False))
    if columns.may_lack:
        usable |= np.isnan(numbers)
    bad: list[BadRow] = []
    for i in np.flatnonzero(~usable.all(axis=1)).tolist():
        wrong = int(np.argmin(usable[i]))
        column = columns.features[wrong]
        value = numbers[i, wrong] if original is None else original(i, column)
        kind, what = (ProblemKind.EMPTY, "is missing") if value is None else describe_number(float(value))
        bad.append(BadRow(i, None, kind, f"{columns.describe(column)}: {what}"))
    chunk = Chunk(len(numbers), np.arange(len(numbers)), numbers).without(bad)
    return chunk if label_values is None else labelled(chunk, label_values, columns)


def labelled(
    chunk: Chunk,
    told: Sequence[str | float | None],
    columns: Columns,
    lines: Sequence[int] | Int64Array | None = None,
) -> Chunk:
    """Return a chunk with what `normalise` returned for the label of each row; rows without one are bad.

    `lines` are those of the rows, where they have some.
    """
    assert columns.label is not None  # noqa: S101
    reason = f"{columns.describe(columns.label)}: is empty"
    chunk = chunk.without(
        [
            BadRow(row, None if lines is None else int(lines[row]), ProblemKind.LABEL, reason)
            for row in chunk.rows.tolist()
            if told[row] is None
        ]
    )
    values = [value for row in chunk.rows.tolist() if (value := told[row]) is not None]
    return replace(chunk, label_values=values)


def _sum(numbers: npt.NDArray[Any]) -> float:
    with np.errstate(over="ignore", invalid="ignore"):
        return float(numbers.sum())


def describe_number(value: float) -> tuple[ProblemKind, str]:
    """Return the error for a number that float32 cannot hold."""
    if np.isfinite(value):
        return ProblemKind.OUT_OF_RANGE, f"{value} does not fit float32"
    return ProblemKind.NOT_FINITE, f"{value} is not finite"
