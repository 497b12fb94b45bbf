"""Parquet files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datasentinel.errors import DataError
from datasentinel.tables.arrow import chunk_of, import_pyarrow, nested_type, numbers_of_column
from datasentinel.tables.base import Part, block_rows_for
from datasentinel.tables.sample_column import SAMPLE_ROWS, SampleColumn

if TYPE_CHECKING:
    from collections.abc import Iterator

    from datasentinel.tables.chunk import Chunk
    from datasentinel.tables.sources import Source


class ParquetPart(Part):
    """A Parquet file, with the keys that its folders' names hold (`host=a/day=3/part.parquet`) as columns."""

    def __init__(self, source: Source) -> None:
        self._arrow = import_pyarrow()
        self.name = source.name
        self._file = source.plain_path or source.open_seekable()
        try:
            with self._open() as file:
                self._schema = file.schema_arrow
                self._num_rows = file.metadata.num_rows
                head = next(file.iter_batches(SAMPLE_ROWS), None)
        except (self._arrow.ArrowException, OSError) as error:
            raise DataError(f"{self.name}: not a Parquet file: {error}") from error
        self._keys = _partition_keys(source.path, self._schema.names)
        self._head = head if head is not None else self._schema.empty_table()

    def _open(self) -> Any:  # noqa: ANN401
        import pyarrow.parquet as pq

        return pq.ParquetFile(self._file)

    def sample(self) -> list[SampleColumn]:
        """See `Part.sample`."""
        indexes = _index_names(self._schema)
        sample = [
            SampleColumn(
                field.name,
                self._plain_values(i) if not (nested := nested_type(field.type)) else [],
                is_index=field.name in indexes,
                nested=nested,
            )
            for i, field in enumerate(self._schema)
        ]
        rows = self._head.num_rows
        return sample + [SampleColumn(key, [value] * rows) for key, value in self._keys.items()]

    def _plain_values(self, position: int) -> list[object]:
        column = self._head.column(position)
        types = self._arrow.types
        # Decimals and durations are numbers to us.
        if types.is_decimal(column.type) or types.is_duration(column.type):
            values: list[object] = numbers_of_column(column, "", self.name).tolist()
            return values
        return list(column.to_pylist())

    def blocks(self, block_rows: int | None) -> Iterator[tuple[Any, float]]:
        """See `Part.blocks`."""
        columns = self.columns
        wanted = [*columns.features, *columns.keep, *([columns.label] if columns.label is not None else [])]
        names = list(dict.fromkeys(columns.names[i] for i in wanted if columns.names[i] not in self._keys))
        size = block_rows or block_rows_for(len(names))
        done = 0
        try:
            with self._open() as file:
                for batch in file.iter_batches(batch_size=size, columns=names):
                    done += batch.num_rows
                    yield batch, done / max(1, self._num_rows)
        except (self._arrow.ArrowException, OSError) as error:
            raise DataError(f"{self.name}: cannot be read: {error}") from error

    def parse(self, content: Any, dtype: type) -> Chunk:  # noqa: ANN401
        """See `Part.parse`."""
        columns = self.columns
        return chunk_of(content, columns, dtype, where=self.name, keys=self._keys)


def _index_names(schema: Any) -> frozenset[str]:  # noqa: ANN401
    """Return which columns pandas wrote as an index without a name of its own, or with one."""
    described = (schema.metadata or {}).get(b"pandas")
    try:
        indexes = json.loads(described)["index_columns"] if described else []
        return frozenset(name for name in indexes if isinstance(name, str))
    except (ValueError, KeyError, TypeError, RecursionError):
        return frozenset()


def _partition_keys(path: str, names: list[str]) -> dict[str, str]:
    pairs = [part.split("=", 1) for part in Path(path).parts[:-1] if "=" in part]
    return {key: value for key, value in pairs if key and key not in names}
