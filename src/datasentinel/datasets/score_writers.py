"""Writers of scores and decisions, chunk by chunk."""

from __future__ import annotations

import csv
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from datasentinel.datasets.parquet_file import import_pyarrow

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

Row = tuple[int, float | None, bool | None, str] | tuple[int, float | None, bool | None, str, float | None]
"""Row number from 0, score and decision (None for a bad row), and what is wrong with it or nothing; then its
p-value (None for a bad row), where those are asked for."""

COLUMNS = ("row", "score", "anomaly", "error")
P_VALUE_COLUMN = "p_value"


class ScoreWriter(Protocol):
    """Takes rows in order."""

    def write(self, rows: Iterable[Row]) -> None:
        """Append rows."""
        ...


class CsvScoreWriter:
    """Columns row, score, anomaly (0 or 1), error and maybe p_value; a bad row has only row and error."""

    def __init__(self, file: TextIO, *, p_values: bool = False) -> None:
        self._writer = csv.writer(file, lineterminator="\n")
        self._writer.writerow((*COLUMNS, P_VALUE_COLUMN) if p_values else COLUMNS)

    def write(self, rows: Iterable[Row]) -> None:
        """Append rows; nine digits tell all float32 values apart."""
        self._writer.writerows(
            (row, "", "", error, *("" for _ in p_value))
            if score is None
            else (row, f"{score:.9g}", int(bool(anomaly)), error, *p_value)
            for row, score, anomaly, error, *p_value in rows
        )


class ParquetScoreWriter(AbstractContextManager["ParquetScoreWriter"]):
    """Columns row (int64), score (float32), anomaly (bool), error (string) and maybe p_value (float64).

    Nulls for a bad row.
    """

    def __init__(self, path: Path, *, p_values: bool = False) -> None:
        self._arrow, parquet = import_pyarrow()
        types = (self._arrow.int64(), self._arrow.float32(), self._arrow.bool_(), self._arrow.string())
        fields = list(zip(COLUMNS, types, strict=True))
        if p_values:
            fields.append((P_VALUE_COLUMN, self._arrow.float64()))
        self._schema = self._arrow.schema(fields)
        self._writer: Any = parquet.ParquetWriter(path, self._schema)

    def __exit__(self, *_: object) -> None:
        self._writer.close()

    def write(self, rows: Iterable[Row]) -> None:
        """Append rows as one row group."""
        columns = list(zip(*rows, strict=True))
        if columns:
            self._writer.write_table(
                self._arrow.table([list(column) for column in columns], schema=self._schema)
            )
