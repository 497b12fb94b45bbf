"""Parquet files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from datasentinel.datasets.base import Chunk, DataFile, select_columns
from datasentinel.errors import DataError, MissingDependencyError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from datasentinel.types import Float64Array


def import_pyarrow() -> tuple[Any, Any]:
    """Import pyarrow and its Parquet module, or say what to install."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise MissingDependencyError('Parquet needs pyarrow: pip install "datasentinel[parquet]"') from error
    return pa, pq


class ParquetFile(DataFile):
    """A Parquet file of numeric columns."""

    def __init__(self, path: Path, label: str | None, features: Sequence[str]) -> None:
        pa, pq = import_pyarrow()
        self._arrow, self._parquet = pa, pq
        try:
            with pq.ParquetFile(path) as file:
                schema, self._num_rows = file.schema_arrow, file.metadata.num_rows
        except pa.ArrowException as error:
            raise DataError(f"{path}: not a Parquet file: {error}") from error
        columns = select_columns(path, tuple(schema.names), len(schema.names), label, features)
        self._wanted = columns.wanted
        for column in self._wanted:
            kind = schema.field(column).type
            if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
                raise DataError(f"{path}: {columns.describe(column)} holds {kind}, not numbers")
        super().__init__(path, columns, has_labels=columns.label is not None)

    def chunks(self, chunk_rows: int | None = None) -> Iterator[Chunk]:
        """See `DataFile.chunks`."""
        names = [self._columns.names[column] for column in self._wanted]
        first_row = 0
        try:
            with self._parquet.ParquetFile(self.path) as file:
                for batch in file.iter_batches(batch_size=chunk_rows or self.chunk_rows, columns=names):
                    # A null becomes NaN, and so a bad row.
                    numbers = np.column_stack([self._numbers(batch.column(name)) for name in names])
                    labels = numbers[:, -1] if self.has_labels else None
                    rows = np.arange(first_row, first_row + len(numbers))
                    first_row += len(numbers)
                    share_read = first_row / max(1, self._num_rows)
                    yield self._chunk(numbers[:, : self.num_features], labels, rows, share_read=share_read)
        except (self._arrow.ArrowException, OSError) as error:
            raise DataError(f"{self.path}: cannot be read: {error}") from error

    def _numbers(self, column: Any) -> Float64Array:  # noqa: ANN401
        numbers: Float64Array = column.cast(self._arrow.float64(), safe=False).to_numpy(zero_copy_only=False)
        return numbers
