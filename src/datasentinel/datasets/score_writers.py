"""Writers of scores and decisions, chunk by chunk."""

from __future__ import annotations

import csv
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from datasentinel.datasets.parquet_file import import_pyarrow

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

Row = tuple[int, float | None, bool | None, str, *tuple[str, ...]]
"""Row number from 0, score and decision (None for a bad row), what is wrong with it, and reasons."""


def column_names(num_reasons: int) -> list[str]:
    """Name the columns: row, score, anomaly, error, reason_1, reason_2, ..."""
    return ["row", "score", "anomaly", "error", *(f"reason_{i}" for i in range(1, num_reasons + 1))]


class ScoreWriter(Protocol):
    """Takes rows in order."""

    def write(self, rows: Iterable[Row]) -> None:
        """Append rows."""
        ...


class CsvScoreWriter:
    """Columns row, score, anomaly (0 or 1), error and reasons; a bad row has an empty score and anomaly."""

    def __init__(self, file: TextIO, *, num_reasons: int = 0) -> None:
        self._writer = csv.writer(file, lineterminator="\n")
        self._writer.writerow(column_names(num_reasons))

    def write(self, rows: Iterable[Row]) -> None:
        """Append rows; nine digits tell all float32 values apart."""
        self._writer.writerows(
            (row, "" if score is None else f"{score:.9g}", "" if anomaly is None else int(anomaly), *rest)
            for row, score, anomaly, *rest in rows
        )


class ParquetScoreWriter(AbstractContextManager["ParquetScoreWriter"]):
    """Columns row (int64), score (float32), anomaly (bool), error and reasons (string).

    A bad row has a null score and anomaly.
    """

    def __init__(self, path: Path, *, num_reasons: int = 0) -> None:
        self._arrow, parquet = import_pyarrow()
        text = self._arrow.string()
        types = [self._arrow.int64(), self._arrow.float32(), self._arrow.bool_(), text, *[text] * num_reasons]
        self._schema = self._arrow.schema(list(zip(column_names(num_reasons), types, strict=True)))
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
