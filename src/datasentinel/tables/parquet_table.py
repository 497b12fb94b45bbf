"""Parquet files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from datasentinel.errors import DataError, MissingDependencyError
from datasentinel.tables import labels
from datasentinel.tables.base import Part, block_rows_for, split_off_bad
from datasentinel.tables.roles import SampleColumn

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from datasentinel.tables.chunk import Chunk
    from datasentinel.tables.roles import Columns
    from datasentinel.tables.sources import Source

_SAMPLE_ROWS = 1000


def import_pyarrow() -> tuple[Any, Any]:
    """Import pyarrow and its Parquet module, or say what to install."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise MissingDependencyError('Parquet needs pyarrow: pip install "datasentinel[parquet]"') from error
    return pa, pq


class ParquetPart(Part):
    """A Parquet file, with the keys that its folders' names hold (`host=a/day=3/part.parquet`) as columns."""

    def __init__(self, source: Source) -> None:
        self._arrow, self._parquet = import_pyarrow()
        self.name = source.name
        self._file = source.plain_path or source.open_seekable()
        self._columns: Columns | None = None
        try:
            with self._open() as file:
                self._schema = file.schema_arrow
                self._num_rows = file.metadata.num_rows
                head = next(file.iter_batches(_SAMPLE_ROWS), None)
        except (self._arrow.ArrowException, OSError) as error:
            raise DataError(f"{self.name}: not a Parquet file: {error}") from error
        self._keys = _partition_keys(source.path, self._schema.names)
        self._head = head if head is not None else self._schema.empty_table()

    def _open(self) -> Any:  # noqa: ANN401
        return self._parquet.ParquetFile(self._file)

    def sample(self) -> list[SampleColumn]:
        """Return the columns with their first values."""
        indexes = _index_names(self._schema)
        sample = [
            SampleColumn(
                field.name,
                _plain_values(self._head.column(i)) if not (nested := self._nested(field.type)) else [],
                is_index=field.name in indexes,
                nested=nested,
            )
            for i, field in enumerate(self._schema)
        ]
        rows = self._head.num_rows
        return sample + [SampleColumn(key, [value] * rows) for key, value in self._keys.items()]

    def bind(self, columns: Columns) -> None:
        """Return the role of each column."""
        self._columns = columns

    def _nested(self, kind: Any) -> str:  # noqa: ANN401
        """Return the name of a type that is neither a number nor text nor a time, or an empty string."""
        types = self._arrow.types
        kind = kind.value_type if types.is_dictionary(kind) else kind
        return str(kind) if types.is_nested(kind) or "binary" in str(kind) else ""

    def blocks(self, block_rows: int | None) -> Iterator[tuple[Any, float]]:
        """See `Part.blocks`."""
        columns = self._columns
        assert columns is not None  # noqa: S101
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
        columns = self._columns
        assert columns is not None  # noqa: S101
        numbers = np.empty((content.num_rows, len(columns.features)), dtype)
        with np.errstate(over="ignore", invalid="ignore"):
            for i, column in enumerate(columns.features):
                numbers[:, i] = self._numbers(content, columns.names[column])
        label_values = None
        if columns.label is not None:
            name = columns.names[columns.label]
            values = (
                [self._keys[name]] * len(numbers) if name in self._keys else content.column(name).to_pylist()
            )
            known = {value: labels.normalise(value) for value in set(values)}
            label_values = [known[value] for value in values]

        def is_null(row: int, column: int) -> bool:
            name = columns.names[column]
            return name not in self._keys and content.column(name)[row].as_py() is None

        chunk = split_off_bad(numbers, columns, label_values, is_null)
        for column in columns.keep:
            name = columns.names[column]
            key = self._keys.get(name)
            chunk.kept[name] = [key] * len(numbers) if key is not None else content.column(name)
        return chunk

    def _numbers(self, batch: Any, name: str) -> npt.NDArray[Any] | float:  # noqa: ANN401
        if name in self._keys:
            return float(self._keys[name])
        column, types = batch.column(name), self._arrow.types
        if types.is_dictionary(column.type):
            column = column.dictionary_decode()
        if column.null_count == 0 and (types.is_integer(column.type) or types.is_floating(column.type)):
            # Arrow's own to_numpy imports pandas where that is installed, which takes longer than many files.
            plain = np.frombuffer(column.buffers()[1], dtype=column.type.to_pandas_dtype())
            return plain[column.offset : column.offset + len(column)]
        try:
            # A null becomes NaN, and so a bad row, which `parse` tells from one with a NaN.
            if types.is_temporal(column.type):
                column = column.cast(self._arrow.int64(), safe=False)
            numbers: npt.NDArray[Any] = column.cast(self._arrow.float64(), safe=False).to_numpy(
                zero_copy_only=False
            )
        except self._arrow.ArrowException as error:
            raise DataError(
                f"{self.name}: column '{name}' holds {column.type}, not numbers: {error}"
            ) from error
        return numbers


def _plain_values(column: Any) -> list[object]:  # noqa: ANN401
    values = column.to_pylist()
    # Decimals are numbers to us.
    return [float(value) if type(value).__name__ == "Decimal" else value for value in values]


def _index_names(schema: Any) -> frozenset[str]:  # noqa: ANN401
    """Return which columns pandas wrote as an index without a name of its own, or with one."""
    described = (schema.metadata or {}).get(b"pandas")
    try:
        indexes = json.loads(described)["index_columns"] if described else []
    except (ValueError, KeyError, TypeError):
        return frozenset()
    return frozenset(name for name in indexes if isinstance(name, str))


def _partition_keys(path: str, names: list[str]) -> dict[str, str]:
    pairs = [part.split("=", 1) for part in Path(path).parts[:-1] if "=" in part]
    return {key: value for key, value in pairs if key and key not in names}
