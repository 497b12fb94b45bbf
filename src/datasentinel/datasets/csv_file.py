"""CSV files."""

from __future__ import annotations

import csv
from collections import Counter
from itertools import chain, islice
from operator import itemgetter
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np

from datasentinel.datasets.base import BadRow, Chunk, DataFile, select_columns
from datasentinel.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from datasentinel.types import Float64Array

_SAMPLE_ROWS = 1000  # rows looked at to find the file's shape


class CsvFile(DataFile):
    """Separated by commas, semicolons or tabs, with or without a header."""

    def __init__(self, path: Path, label: str | None, header: bool | None, features: Sequence[str]) -> None:
        self._delimiter = self._find_delimiter(path)
        with self._open(path) as file:
            sample = islice(self._records(file), _SAMPLE_ROWS)
            rows = [fields for _, fields in sample if not isinstance(fields, str)]
        if not rows:
            raise DataError(f"{path}: holds no rows")
        self._has_header = _looks_like_header(rows[0]) if header is None else header
        names: tuple[str, ...] = ()
        if self._has_header:
            names = tuple(name.strip() or f"column {i}" for i, name in enumerate(rows[0], start=1))
            self._width = len(names)
        else:
            self._width = Counter(map(len, rows)).most_common(1)[0][0]
        columns = select_columns(path, names, self._width, label, features)
        super().__init__(path, columns, has_labels=columns.label is not None)
        self._wanted = columns.wanted
        self._pick = _picker(self._wanted, self._width)

    @staticmethod
    def _open(path: Path) -> TextIO:
        return path.open(encoding="utf-8-sig", errors="replace", newline="")

    @classmethod
    def _find_delimiter(cls, path: Path) -> str:
        with cls._open(path) as file:
            # Bounded: a file without line ends must not be read whole just to be looked at.
            first = next((line for line in iter(lambda: file.readline(1 << 20), "") if line.strip()), "")
        return max(",;\t", key=first.count)

    def _records(self, file: TextIO) -> Iterator[tuple[int, list[str] | str]]:
        """Yield each record's first line and its fields, or the reason why it has none."""
        reader = csv.reader(file, delimiter=self._delimiter)
        while True:
            line = reader.line_num + 1
            try:
                fields = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield line, str(error)
                continue
            if any(field.strip() for field in fields) or len(fields) > 1:
                yield line, fields

    def chunks(self, chunk_rows: int | None = None) -> Iterator[Chunk]:
        """See `DataFile.chunks`."""
        size = max(1, self.path.stat().st_size)
        with self._open(self.path) as file:
            records = self._records(file)
            if self._has_header:
                next(records, None)
            first_row = 0
            while batch := list(islice(records, chunk_rows or self.chunk_rows)):
                yield self._parse(batch, first_row, share_read=min(1.0, file.buffer.tell() / size))
                first_row += len(batch)

    def _parse(self, batch: list[tuple[int, list[str] | str]], first_row: int, *, share_read: float) -> Chunk:
        rows = range(first_row, first_row + len(batch))
        lines = [line for line, _ in batch]
        bad: list[BadRow] = []
        try:
            numbers = self._convert([fields for _, fields in batch])
        except ValueError:
            parsed = []
            for row, (line, fields) in zip(rows, batch, strict=True):
                try:
                    self._check(fields)
                except ValueError as error:
                    bad.append(BadRow(row, line, str(error)))
                else:
                    parsed.append((row, line, fields))
            numbers = self._convert([fields for _, _, fields in parsed])
            rows, lines = [row for row, _, _ in parsed], [line for _, line, _ in parsed]  # type: ignore[assignment]
        positions = np.array(rows, dtype=np.int64)
        labels = numbers[:, -1] if self.has_labels else None
        values = numbers[:, : self.num_features]
        return self._chunk(values, labels, positions, share_read=share_read, lines=lines, bad=bad)

    def _convert(self, records: Sequence[list[str] | str]) -> Float64Array:
        """Turn the wanted fields of all records into numbers at once; any bad record is a ValueError."""
        if any(isinstance(fields, str) or len(fields) != self._width for fields in records):
            raise ValueError
        count = len(records) * len(self._wanted)
        numbers = np.fromiter(map(float, chain.from_iterable(map(self._pick, records))), float, count=count)
        return numbers.reshape(len(records), len(self._wanted))

    def _check(self, fields: list[str] | str) -> None:
        """Raise ValueError with the reason why a record cannot be parsed."""
        if isinstance(fields, str):
            raise ValueError(fields)
        if len(fields) != self._width:
            raise ValueError(f"expected {self._width} values, got {len(fields)}")
        for column in self._wanted:
            try:
                float(fields[column])
            except ValueError:
                text = fields[column].strip()
                what = f"'{text[:40]}' is not a number" if text else "is empty"
                raise ValueError(f"{self._columns.describe(column)}: {what}") from None


def _looks_like_header(fields: Sequence[str]) -> bool:
    """Whether most fields are words: a single bad number must not turn a data row into a header."""
    words = 0
    for field in fields:
        try:
            float(field)
        except ValueError:
            words += 1
    return 2 * words > len(fields)


def _picker(wanted: tuple[int, ...], width: int) -> Callable[[Any], Sequence[str]]:
    """Return what takes the wanted fields out of a record."""
    if wanted == tuple(range(width)):
        return lambda fields: fields
    if len(wanted) == 1:
        return lambda fields: (fields[wanted[0]],)
    return itemgetter(*wanted)
