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
from datasentinel.tables.parquet_table import import_pyarrow

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path
    from typing import TextIO

    import numpy.typing as npt

    from datasentinel.reasons import Reason
    from datasentinel.tables.chunk import Chunk
    from datasentinel.types import BoolArray, Float32Array, Float64Array

PARQUET_SUFFIXES = (".parquet", ".pq")
JSON_SUFFIXES = (".jsonl", ".ndjson")
_ROW_GROUP_ROWS = 1 << 17


@dataclass(frozen=True)
class Scored:
    """A chunk's rows, good and bad, with what the model says of the good ones.

    Attributes
    ----------
    chunk : Chunk
        The rows.
    scores : float32 array, shape [n]
    anomalies : bool array, shape [n]
    severities : float32 array, shape [n], or None
    p_values : float64 array, shape [n], or None
    reasons : list of list of Reason, or None
        For the n good rows.
    warming : bool array, shape [n], or None
        Of a model with memory: which rows are too early in their stream to tell.
    """

    chunk: Chunk
    scores: Float32Array
    anomalies: BoolArray
    severities: Float32Array | None = None
    p_values: Float64Array | None = None
    reasons: list[list[Reason]] | None = None
    warming: BoolArray | None = None

    @property
    def is_good(self) -> BoolArray:
        """Which of the chunk's rows are good."""
        good = np.zeros(self.chunk.num_rows, bool)
        good[self.chunk.rows - self.chunk.first_row] = True
        return good

    def spread(self, values: Sequence[Any], *, bad: Any = None) -> list[Any]:  # noqa: ANN401
        """Return the good rows' values at their places, and `bad` at the places of bad rows."""
        if len(values) == self.chunk.num_rows:
            return list(values)
        column = [bad] * self.chunk.num_rows
        for row, value in zip((self.chunk.rows - self.chunk.first_row).tolist(), values, strict=True):
            column[row] = value
        return column

    def errors(self, *, good: str | None) -> list[str | None]:
        """Return what is wrong with each row, and `good` for those with which nothing is."""
        column = [good] * self.chunk.num_rows
        for bad in self.chunk.bad:
            column[bad.row - self.chunk.first_row] = str(bad)
        return column

    @property
    def row_numbers(self) -> range:
        """Positions of the rows among the table's data rows."""
        return range(self.chunk.first_row, self.chunk.first_row + self.chunk.num_rows)


@dataclass(frozen=True)
class OutputColumns:
    """The columns of the output: row, those handed through, score, anomaly, error, and those that follow."""

    kept: tuple[str, ...] = ()
    severity: bool = False
    p_value: bool = False
    num_reasons: int = 0
    warming: bool = False

    @property
    def kept_as(self) -> Mapping[str, str]:
        """Names in the output of the columns handed through, by their names in the input."""
        taken = {"row", "score", "anomaly", "error", "severity", "p_value", "reasons", "warming"}
        return {name: f"input_{name}" if name in taken else name for name in self.kept}


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


def reasons_as_data(reasons: Sequence[Reason]) -> list[dict[str, object]]:
    """Return a row's reasons as objects; `share` is the feature's part in the score."""
    return [
        {
            "feature": reason.feature,
            "value": reason.value,
            "expected": reason.expected,
            "share": reason.contribution,
        }
        for reason in reasons
    ]


@dataclass
class ParquetScoreWriter(ScoreWriter):
    """Row (int64), score (float32), anomaly (bool), error (string), and what else there is.

    That is severity (float32), p_value (float64), reasons (list) and warming (bool).

    A reason is a struct of feature (string), value, expected and share (float32). What a bad row does not
    have is null, and so is the error of a good one. Columns handed through keep the type that they have in a
    Parquet file, and are strings otherwise.
    """

    path: Path
    columns: OutputColumns
    _writer: Any = field(default=None, init=False)
    _pending: list[Any] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        self._arrow, self._parquet = import_pyarrow()
        # Opened now, so that what cannot be written is known before anything is scored.
        self._file = self.path.open("wb")

    def __exit__(self, *_: object) -> None:
        """Finish the file."""
        try:
            self._flush()
            if self._writer is not None:
                self._writer.close()
        finally:
            self._file.close()

    def write(self, scored: Scored) -> None:
        """Append rows; a row group is written when there are enough."""
        pa = self._arrow
        good = scored.is_good
        whole = bool(good.all())

        def column(values: npt.NDArray[Any], kind: Any) -> Any:  # noqa: ANN401
            if not whole:
                spread = np.zeros(len(good), values.dtype)
                spread[good] = values
                values = spread
            if values.dtype == np.bool_:
                values = np.packbits(values, bitorder="little")
            # Not by pa.array, which imports pandas where that is installed.
            valid = None if whole else pa.py_buffer(np.packbits(good, bitorder="little"))
            return pa.Array.from_buffers(kind, len(good), [valid, pa.py_buffer(np.ascontiguousarray(values))])

        numbers = np.arange(scored.row_numbers.start, scored.row_numbers.stop)
        fields = {
            "row": pa.Array.from_buffers(pa.int64(), len(good), [None, pa.py_buffer(numbers)]),
        }
        for name, told in self.columns.kept_as.items():
            fields[told] = self._kept(scored.chunk.kept[name])
        fields["score"] = column(scored.scores, pa.float32())
        fields["anomaly"] = column(scored.anomalies, pa.bool_())
        fields["error"] = pa.nulls(len(good), pa.string()) if whole else pa.array(scored.errors(good=None))
        if scored.severities is not None:
            fields["severity"] = column(scored.severities, pa.float32())
        if scored.p_values is not None:
            fields["p_value"] = column(scored.p_values, pa.float64())
        if scored.reasons is not None:
            single = pa.float32()
            reason = pa.struct({"feature": pa.string(), "value": single, "expected": single, "share": single})
            told_reasons = scored.spread(list(map(reasons_as_data, scored.reasons)))
            fields["reasons"] = pa.array(told_reasons, type=pa.list_(reason))
        if scored.warming is not None:
            fields["warming"] = column(scored.warming, pa.bool_())
        self._pending.append(pa.table(fields))
        if sum(table.num_rows for table in self._pending) >= _ROW_GROUP_ROWS:
            self._flush()

    def _flush(self) -> None:
        if not self._pending:
            return
        pa = self._arrow
        # A block without any text in a column handed through has nulls there.
        table = pa.concat_tables(self._pending, promote_options="default")
        self._pending.clear()
        if self._writer is None:
            self._writer = self._parquet.ParquetWriter(
                self._file, table.schema, use_dictionary=[*self.columns.kept_as.values(), "error"]
            )
        try:
            self._writer.write_table(table.cast(self._writer.schema))
        except pa.ArrowException as error:
            raise DataError(f"{self.path}: cannot be written: {error}") from error

    def _kept(self, values: Any) -> Any:  # noqa: ANN401
        pa = self._arrow
        if isinstance(values, list):
            is_text = all(value is None or isinstance(value, str) for value in values)
            return pa.array(
                values if is_text else [None if v is None else str(v) for v in values], pa.string()
            )
        return values.dictionary_decode() if pa.types.is_dictionary(values.type) else values
