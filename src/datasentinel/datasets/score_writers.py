"""Writers of scores and decisions, chunk by chunk."""

from __future__ import annotations

import csv
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from datasentinel.datasets.parquet_file import import_pyarrow

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

Extra = float | str | None
Row = tuple[int, float | None, bool | None, str, *tuple[Extra, ...]]
"""Row number from 0, score and decision (None for a bad row), what is wrong with it, and extra columns."""


@dataclass(frozen=True)
class ExtraColumns:
    """Columns beside row, score, anomaly and error: p_value, if wanted, then reason_1, reason_2, ..."""

    p_value: bool = False
    num_reasons: int = 0

    @property
    def names(self) -> list[str]:
        """The names of all columns."""
        reasons = (f"reason_{i}" for i in range(1, self.num_reasons + 1))
        return ["row", "score", "anomaly", "error", *["p_value"] * self.p_value, *reasons]

    @property
    def of_bad_row(self) -> tuple[Extra, ...]:
        """What a bad row has in the extra columns."""
        return (*[None] * self.p_value, *[""] * self.num_reasons)


_NO_EXTRA = ExtraColumns()


class ScoreWriter(Protocol):
    """Takes rows in order."""

    def write(self, rows: Iterable[Row]) -> None:
        """Append rows."""
        ...


class CsvScoreWriter:
    """Columns row, score, anomaly (0 or 1), error and extra ones; a bad row has only row and error."""

    def __init__(self, file: TextIO, extra: ExtraColumns = _NO_EXTRA) -> None:
        self._writer = csv.writer(file, lineterminator="\n")
        self._writer.writerow(extra.names)

    def write(self, rows: Iterable[Row]) -> None:
        """Append rows; nine digits tell all float32 values apart."""
        self._writer.writerows(
            (row, "" if score is None else f"{score:.9g}", "" if anomaly is None else int(anomaly), *rest)
            for row, score, anomaly, *rest in rows
        )


class ParquetScoreWriter(AbstractContextManager["ParquetScoreWriter"]):
    """Columns row (int64), score (float32), anomaly (bool), error (string) and extra ones.

    Of these, p_value is float64 and reasons are strings. A bad row has a null score, anomaly and p_value.
    """

    def __init__(self, path: Path, extra: ExtraColumns = _NO_EXTRA) -> None:
        self._arrow, parquet = import_pyarrow()
        text = self._arrow.string()
        types = [
            *(self._arrow.int64(), self._arrow.float32(), self._arrow.bool_(), text),
            *[self._arrow.float64()] * extra.p_value,
            *[text] * extra.num_reasons,
        ]
        self._schema = self._arrow.schema(list(zip(extra.names, types, strict=True)))
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
