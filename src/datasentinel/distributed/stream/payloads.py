"""Payloads of messages into rows: JSON, CSV, Arrow IPC and raw float32."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import chain
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from datasentinel.calendar_time import second_of_week
from datasentinel.errors import InvalidInputError, MissingDependencyError, SettingsError
from datasentinel.reasons import feature_name
from datasentinel.tables.base import split_off_bad
from datasentinel.tables.csv_table import CsvPart
from datasentinel.tables.frames import numbers_of
from datasentinel.tables.json_table import numbers_of_object
from datasentinel.tables.layout import Dialect, Layout
from datasentinel.tables.roles import Columns
from datasentinel.tables.sources import Source

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from datasentinel.artifact import Config
    from datasentinel.types import Float32Array

FORMATS = ("auto", "json", "csv", "arrow", "float32")

_NUMERIC = frozenset((int, float, bool))
# What an array of arrays of numbers consists of.
_NUMBERS_ONLY = b"0123456789+-.eE,[] "
_ARROW_STREAM = b"\xff\xff\xff\xff"
_ARROW_FILE = b"ARROW1"


class Rows(NamedTuple):
    """The rows of one message.

    Attributes
    ----------
    values : list of sequences of numbers, or float32 array, shape [n, D]
        The model's features; numbers as they were sent, not yet looked at.
    times, series : list, length n, or None
        When each row was taken, and to which series it belongs, as far as the payload says.
    is_batch : bool
        Whether the payload is one of several rows, if only of one this time.
    """

    values: Any
    times: list[Any] | None
    series: list[str] | None
    is_batch: bool


@dataclass(frozen=True)
class PayloadOptions:
    """How payloads are read.

    Attributes
    ----------
    format : str
        One of `FORMATS`. "auto" recognises JSON, CSV and Arrow by their first bytes; raw float32 has none.
    columns : tuple of str
        What the values of a CSV line, a JSON array or a raw row are, in their order; empty for the model's
        features. Names that are no features, nor the time or the id, are passed over.
    time, id : str or None
        Name of the column that says when a row was taken, and of the one that says which series it belongs
        to; without them those that the model was trained with.
    """

    format: str = "auto"
    columns: tuple[str, ...] = ()
    time: str | None = None
    id: str | None = None


class Decoder:
    """Reads payloads for one model.

    Parameters
    ----------
    config : Config
        The model's.
    options : PayloadOptions

    Raises
    ------
    SettingsError
        The columns lack a feature of the model, or there are as many names as it takes values.
    """

    def __init__(self, config: Config, options: PayloadOptions) -> None:
        self._zone, self._date_order = config.time_zone, config.date_order
        self._may_lack = bool(config.first_values)
        width = config.input_dim - bool(config.calendar)
        named = config.table_features
        self.features = named or tuple(feature_name((), column) for column in range(width))
        self._time = options.time or _text(config.columns.get("time"))
        self._id = options.id or _text(config.columns.get("id"))
        self._columns = options.columns or self.features
        if lacking := [name for name in self.features if name not in self._columns]:
            raise SettingsError(f"--columns lacks the model's feature '{lacking[0]}'")
        self._positions = [self._columns.index(name) for name in self.features]
        self._in_order = self._positions == list(range(len(self._columns)))
        self._pick: Callable[[Any], Any] = itemgetter(*self.features)
        if len(self.features) == 1:
            self._pick = lambda row: (row[self.features[0]],)
        self._csv = self._csv_part()
        self._as_features = Columns(
            self.features, named=True, features=tuple(range(width)), may_lack=self._may_lack
        )
        self._decode: Callable[[bytes], Rows] = {
            "auto": self._decode_any,
            "json": self._decode_json,
            "csv": self._decode_csv,
            "arrow": self._decode_arrow,
            "float32": self._decode_float32,
        }[options.format]

    def decode(self, payload: bytes) -> Rows:
        """Read a payload.

        Raises
        ------
        InvalidInputError
            It is not what it should be; row and column are named.
        """
        rows = self._decode(payload)
        if not len(rows.values):
            raise InvalidInputError("the message holds no rows")
        return rows

    def join(self, messages: Sequence[Rows]) -> Float32Array:
        """Return the rows of several messages [N, D] as the model takes them, one below the other.

        Raises
        ------
        InvalidInputError
            A number is not finite in float32, or a row for a model with a season lacks its time; row
            and column are named.
        """
        if all(isinstance(rows.values, list) for rows in messages):
            values = self._checked([row for rows in messages for row in rows.values])
        else:
            values = np.concatenate([self._checked(rows.values) for rows in messages])
        if self._zone is None:
            return values
        times = [time for rows in messages for time in rows.times or [None] * len(rows.values)]
        seconds = second_of_week(times, self._zone, self._date_order)
        if (unknown := np.flatnonzero(~np.isfinite(seconds))).size:
            row, column = int(unknown[0]), self._time or "time"
            raise InvalidInputError(f"row {row}: column '{column}': {times[row]!r} is no time")
        return np.column_stack([values, seconds.astype(np.float32)])

    def _checked(self, values: Any) -> Float32Array:  # noqa: ANN401
        if isinstance(values, np.ndarray):
            return values
        try:
            with np.errstate(over="ignore"):
                rows = np.array(values, np.float64).astype(np.float32)
        except OverflowError:  # An integer beyond float64.
            rows = np.full((1, 1), np.inf, np.float32)
        if not (np.isfinite(rows) | (np.isnan(rows) & self._may_lack)).all():
            for number, row in enumerate(values):
                self._read_carefully(dict(zip(self.features, row, strict=True)), number, many=len(values) > 1)
        return rows

    def _csv_part(self) -> CsvPart:
        """Return what parses lines of the columns."""
        names = self._columns
        keep = tuple(names.index(name) for name in (self._time, self._id) if name in names)
        columns = Columns(
            names, named=True, features=tuple(self._positions), keep=keep, may_lack=self._may_lack
        )
        layout = Layout("utf-8", False, Dialect(), names, len(names), 0, 1, ())
        part = CsvPart(Source("message", ""), layout)
        part.bind(columns)
        return part

    # ---------------------------------------------------------------------------------------------- formats

    def _decode_any(self, payload: bytes) -> Rows:
        head = payload[:64].lstrip()[:1]
        if head in (b"{", b"["):
            return self._decode_json(payload)
        if payload.startswith((_ARROW_STREAM, _ARROW_FILE)):
            return self._decode_arrow(payload)
        return self._decode_csv(payload)

    def _decode_json(self, payload: bytes) -> Rows:
        if (
            self._in_order
            and not self._may_lack  # CSV has more ways to lack a value than JSON.
            and payload.startswith(b"[[")
            and (arrays := self._arrays_at_once(payload)) is not None
        ):
            return arrays
        try:
            document = json.loads(payload)
        except (ValueError, RecursionError) as error:
            raise InvalidInputError(f"is not JSON: {str(error)[:100]}") from error
        is_batch = isinstance(document, list) and bool(document) and isinstance(document[0], dict | list)
        rows = document if is_batch else [document]
        if self._in_order and self._are_arrays_of_numbers(rows):
            return Rows(rows, None, None, is_batch)
        values, times, series = [], [], []
        for number, row in enumerate(rows):
            named = dict(zip(self._columns, row, strict=True)) if self._fits(row, number, is_batch) else row
            values.append(self._numbers(named, number, is_batch))
            if self._time is not None:
                times.append(named.get(self._time))
            if self._id is not None:
                series.append(named.get(self._id))
        return Rows(
            values, times if any(time is not None for time in times) else None, _ids(series), is_batch
        )

    def _arrays_at_once(self, payload: bytes) -> Rows | None:
        """Return the rows of an array of arrays of numbers by the parser of CSV, several times as fast.

        None where it is anything else, or malformed: the reader of JSON reports that.
        """
        if payload.translate(None, _NUMBERS_ONLY):
            return None
        inside = payload.strip()[2:-2].replace(b"], [", b"],[")
        lines = inside.replace(b"],[", b"\n")
        if b"[" in lines or b"]" in lines or not payload.rstrip().endswith(b"]]"):
            return None
        chunk = self._csv.parse(lines, np.float32)
        if chunk.bad or chunk.num_rows != lines.count(b"\n") + 1:
            return None
        return Rows(chunk.values, None, None, is_batch=True)

    def _are_arrays_of_numbers(self, rows: list[Any]) -> bool:
        """Whether rows are what most of them are, at a glance: features in their order, all numbers."""
        return (
            all(type(row) is list for row in rows)
            and set(map(len, rows)) == {len(self._columns)}
            and _NUMERIC.issuperset(map(type, chain.from_iterable(rows)))
        )

    def _fits(self, row: Any, number: int, many: bool) -> bool:  # noqa: ANN401
        """Whether a row is an array of as many values as there are columns."""
        if not isinstance(row, list):
            return False
        if len(row) != len(self._columns):
            where = f"row {number}: " if many else ""
            raise InvalidInputError(f"{where}expected {len(self._columns)} values, got {len(row)}")
        return True

    def _numbers(self, row: Any, number: int, many: bool) -> Sequence[float]:  # noqa: ANN401
        try:
            values: Sequence[float] = self._pick(row)
            if _NUMERIC.issuperset(map(type, values)):
                return values
        except (KeyError, TypeError, IndexError):
            pass
        return self._read_carefully(row, number, many=many)

    def _read_carefully(self, row: Any, number: int, *, many: bool) -> list[float]:  # noqa: ANN401
        """Return the numbers of a row, NaN for those that it may lack, or say what is wrong with it."""
        if self._may_lack and isinstance(row, dict) and row.keys().isdisjoint(self.features):
            raise InvalidInputError(f"{f'row {number}: ' if many else ''}has none of the model's features")
        found = numbers_of_object(row, self.features, may_lack=self._may_lack)
        if not isinstance(found, list):
            raise InvalidInputError(f"row {number}: {found[1]}" if many else found[1])
        return found

    def _decode_csv(self, payload: bytes) -> Rows:
        chunk = self._csv.parse(payload, np.float32)
        if chunk.bad:
            bad = chunk.bad[0]
            raise InvalidInputError(bad.reason if chunk.num_rows == 1 else f"row {bad.row}: {bad.reason}")
        times, series = (chunk.kept.get(name) if name else None for name in (self._time, self._id))
        return Rows(chunk.values, times, _ids(series), is_batch=chunk.num_rows > 1)

    def _decode_arrow(self, payload: bytes) -> Rows:
        try:
            import pyarrow as pa
        except ImportError as error:
            raise MissingDependencyError(
                'Arrow needs pyarrow: pip install "datasentinel[parquet]"'
            ) from error
        try:
            opened = pa.ipc.open_file if payload.startswith(_ARROW_FILE) else pa.ipc.open_stream
            table = opened(pa.py_buffer(payload)).read_all()
            table.validate(full=True)  # Lengths and offsets come from outside.
            names = table.column_names
            numbers = numbers_of(table, self.features, names)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise InvalidInputError(f"is not Arrow IPC of the model's columns: {str(error)[:200]}") from error
        chunk = split_off_bad(numbers, self._as_features, None)
        if chunk.bad:
            raise InvalidInputError(f"row {chunk.bad[0].row}: {chunk.bad[0].reason}")
        times, series = (
            table.column(name).to_pylist() if name in names else None for name in (self._time, self._id)
        )
        return Rows(numbers.astype(np.float32), times, _ids(series), is_batch=True)

    def _decode_float32(self, payload: bytes) -> Rows:
        width = len(self._columns)
        if len(payload) % (4 * width):
            raise InvalidInputError(
                f"{len(payload)} bytes are no rows of {width} float32 values ({4 * width} bytes each)"
            )
        rows = np.frombuffer(payload, "<f4").reshape(-1, width)
        values = np.ascontiguousarray(rows if self._in_order else rows[:, self._positions], np.float32)
        chunk = split_off_bad(values, self._as_features, None)
        if chunk.bad:
            raise InvalidInputError(f"row {chunk.bad[0].row}: {chunk.bad[0].reason}")
        return Rows(values, None, None, is_batch=True)


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _ids(series: list[Any] | None) -> list[str] | None:
    """Return ids as text; None where a row has none, or where there are no such."""
    if not series or any(one is None or one == "" for one in series):
        return None
    ids = list(map(str, series))
    try:
        "".join(ids).encode()
    except UnicodeEncodeError as error:  # JSON can write half a surrogate pair, which no key can hold.
        raise InvalidInputError(f"an id is not Unicode text: {error.reason}") from error
    return ids
