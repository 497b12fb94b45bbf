"""Writers of scores and decisions, chunk by chunk: CSV, JSON lines and Parquet."""

from __future__ import annotations

import csv
import json
from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from datasentinel.errors import DataError
from datasentinel.tables.arrow import batch_of, import_pyarrow
from datasentinel.tables.scored import reasons_as_data

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import BinaryIO, TextIO

    from datasentinel.tables.scored import OutputColumns, Scored

PARQUET_SUFFIXES = (".parquet", ".pq")
JSON_SUFFIXES = (".jsonl", ".ndjson")
_ROW_GROUP_ROWS = 1 << 17


class ScoreWriter(AbstractContextManager["ScoreWriter"], ABC):
    """Takes scored chunks in order."""

    @abstractmethod
    def write(self, scored: Scored) -> None:
        """Append rows."""

    def __exit__(self, *_: object) -> None:
        """Finish the file."""


class CsvScoreWriter(ScoreWriter):
    """Row, score, anomaly (0 or 1), error, severity, p_value, reasons, warming (0 or 1).

    A bad row has only row and error.
    """

    def __init__(self, file: TextIO, columns: OutputColumns) -> None:
        self._writer = csv.writer(file, lineterminator="\n")
        self._columns = columns
        reasons = (f"reason_{i}" for i in range(1, columns.num_reasons + 1))
        kept = columns.kept_as.values()
        asked_for = [*["severity"] * columns.severity, *["p_value"] * columns.p_value, *reasons]
        asked_for += ["warming"] * columns.warming
        self._writer.writerow(["row", *kept, "score", "anomaly", "error", *asked_for])

    def write(self, scored: Scored) -> None:
        """Append rows; nine digits tell all float32 values apart."""
        fields: list[Iterable[Any]] = [
            scored.row_numbers,
            *(_as_text(scored.chunk.kept[name]) for name in self._columns.kept),
            scored.spread(list(map("{:.9g}".format, scored.scores.tolist())), bad=""),
            scored.spread(scored.anomalies.astype(np.uint8).tolist(), bad=""),
            scored.errors(good=""),
        ]
        if scored.severities is not None:
            fields.append(scored.spread(list(map("{:.9g}".format, scored.severities.tolist())), bad=""))
        if scored.p_values is not None:
            fields.append(scored.spread(scored.p_values.tolist(), bad=""))
        if scored.reasons is not None:
            for i in range(self._columns.num_reasons):
                fields.append(scored.spread([str(reasons[i]) for reasons in scored.reasons], bad=""))
        if scored.warming is not None:
            fields.append(scored.spread(scored.warming.astype(np.uint8).tolist(), bad=""))
        self._writer.writerows(zip(*fields, strict=True))


def _as_text(values: Any) -> list[str]:  # noqa: ANN401
    plain = values if isinstance(values, list) else values.to_pylist()
    return ["" if value is None else str(value) for value in plain]


class JsonScoreWriter(ScoreWriter):
    """An object a line, with null where a bad row has nothing; reasons as objects."""

    def __init__(self, file: TextIO, columns: OutputColumns) -> None:
        self._file = file
        self._columns = columns

    def write(self, scored: Scored) -> None:
        """Append rows; scores are the float32 values, exactly."""
        fields: dict[str, Iterable[Any]] = {"row": scored.row_numbers}
        for name, told in self._columns.kept_as.items():
            values = scored.chunk.kept[name]
            fields[told] = values if isinstance(values, list) else values.to_pylist()
        fields["score"] = scored.spread(scored.scores.tolist())
        fields["anomaly"] = scored.spread(scored.anomalies.tolist())
        fields["error"] = scored.errors(good=None)
        if scored.severities is not None:
            fields["severity"] = scored.spread(scored.severities.tolist())
        if scored.p_values is not None:
            fields["p_value"] = scored.spread(scored.p_values.tolist())
        if scored.reasons is not None:
            fields["reasons"] = scored.spread(list(map(reasons_as_data, scored.reasons)))
        if scored.warming is not None:
            fields["warming"] = scored.spread(scored.warming.tolist())
        names = list(fields)
        self._file.writelines(
            json.dumps(dict(zip(names, row, strict=True)), default=str, ensure_ascii=False) + "\n"
            for row in zip(*fields.values(), strict=True)
        )


@dataclass
class ParquetScoreWriter(ScoreWriter):
    """Columns of the types that `datasentinel.tables.arrow.output_schema` has; `row` is the first.

    What a bad row does not have is null, and so is the error of a good one. Columns handed through keep the
    type that they have in a Parquet file, and are strings otherwise.
    """

    file: BinaryIO
    columns: OutputColumns
    name: str
    _writer: Any = field(default=None, init=False)
    _pending: list[Any] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        self._arrow = import_pyarrow()

    def __exit__(self, *_: object) -> None:
        """Finish the file."""
        self._flush()
        if self._writer is not None:
            self._writer.close()

    def write(self, scored: Scored) -> None:
        """Append rows; a row group is written when there are enough."""
        self._pending.append(batch_of(scored, self.columns))
        if sum(batch.num_rows for batch in self._pending) >= _ROW_GROUP_ROWS:
            self._flush()

    def _flush(self) -> None:
        if not self._pending:
            return
        import pyarrow.parquet as pq

        pa = self._arrow
        # A block without any text in a column handed through has nulls there.
        tables = [pa.Table.from_batches([batch]) for batch in self._pending]
        table = pa.concat_tables(tables, promote_options="default")
        self._pending.clear()
        if self._writer is None:
            self._writer = pq.ParquetWriter(
                self.file, table.schema, use_dictionary=[*self.columns.kept_as.values(), "error"]
            )
        try:
            self._writer.write_table(table.cast(self._writer.schema))
        except pa.ArrowException as error:
            raise DataError(f"{self.name}: cannot be written: {error}") from error
