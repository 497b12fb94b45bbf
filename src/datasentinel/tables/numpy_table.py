"""NumPy files."""

from __future__ import annotations

import lzma
import tokenize
import zipfile
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np

from datasentinel.errors import DataError
from datasentinel.tables import labels
from datasentinel.tables.base import Part, block_rows_for, split_off_bad
from datasentinel.tables.sample_column import SAMPLE_ROWS, SampleColumn

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from datasentinel.tables.chunk import Chunk
    from datasentinel.tables.sources import Source

_ZIP = b"PK"
_LABEL_COLUMN = "y"
# What NumPy and zipfile raise for what is damaged, encrypted or packed in a way that they do not know.
_DAMAGED = (
    *(ValueError, TypeError, EOFError, RuntimeError, tokenize.TokenError),
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError),
)


class NumpyPart(Part):
    """An `.npy` array, mapped into memory, or the arrays `X` and `y` of an `.npz` archive, read at once.

    The columns of `X` have no names, and all of them are features; `y`, or the array that `label` names, is
    the label, and counts as the last column.
    """

    # The place of a column is what a model and its clients agree on.
    is_named = False
    has_other_columns = False

    def __init__(self, source: Source, label: str | None) -> None:
        self.name = source.name
        self._values, self._labels = self._load(source, label)
        self._check("X", self._values, 2)
        if self._labels is not None:
            self.label_name = _LABEL_COLUMN
            self._check(label or "y", self._labels, 1)
            if len(self._labels) != len(self._values):
                raise DataError(f"{self.name}: {len(self._labels)} labels for {len(self._values)} rows")

    def _load(self, source: Source, label: str | None) -> tuple[npt.NDArray[Any], npt.NDArray[Any] | None]:
        try:
            path = source.plain_path
            if path is not None and source.peek(2) != _ZIP:
                return np.load(path, allow_pickle=False, mmap_mode="r"), None
            with source.open_seekable() as file:
                loaded: Any = np.load(file, allow_pickle=False)
                arrays = {"X": loaded} if isinstance(loaded, np.ndarray) else dict(loaded)
        except _DAMAGED as error:
            raise DataError(f"{self.name}: not a NumPy file of numbers: {error}") from error
        except MemoryError as error:
            raise DataError(f"{self.name}: does not fit in memory: {error}") from error
        except OSError as error:
            raise DataError(f"{self.name}: cannot be read: {error.strerror or error}") from error
        if "X" not in arrays:
            raise DataError(f"{self.name}: no array 'X' in the archive, which holds {', '.join(arrays)}")
        if label is not None and label not in arrays:
            raise DataError(f"{self.name}: no label array '{label}' in the archive")
        return arrays["X"], arrays.get(label or "y")

    def _check(self, name: str, array: npt.NDArray[Any], dimensions: int) -> None:
        if array.dtype.kind not in "biuf" and not (dimensions == 1 and array.dtype.kind == "U"):
            raise DataError(f"{self.name}: array '{name}' holds {array.dtype}, not numbers")
        if array.ndim != dimensions:
            expected = "[rows, columns]" if dimensions == 2 else "[rows]"
            raise DataError(f"{self.name}: array '{name}' has shape {list(array.shape)}, expected {expected}")

    def sample(self) -> list[SampleColumn]:
        """See `Part.sample`."""
        head = np.asarray(self._values[:SAMPLE_ROWS])
        columns = [SampleColumn("", head[:, i].tolist()) for i in range(head.shape[1])]
        if self._labels is not None:
            columns.append(SampleColumn(_LABEL_COLUMN, self._labels[:SAMPLE_ROWS].tolist()))
        return columns

    def blocks(self, block_rows: int | None) -> Iterator[tuple[slice, float]]:
        """See `Part.blocks`."""
        count = len(self._values)
        step = block_rows or block_rows_for(self._values.shape[1])
        for first in range(0, count, step):
            last = min(count, first + step)
            yield slice(first, last), last / count

    def parse(self, content: Any, dtype: type) -> Chunk:  # noqa: ANN401
        """See `Part.parse`."""
        columns = self.columns
        values = self._values[content]
        told: list[str | float | None] | None = None
        if columns.label is not None:
            is_apart = self._labels is not None and columns.label == self._values.shape[1]
            raw = self._labels[content] if is_apart and self._labels is not None else values[:, columns.label]
            told = labels.normalise_all(raw.tolist())
        with np.errstate(over="ignore"):
            numbers: npt.NDArray[Any] = np.ascontiguousarray(values[:, list(columns.features)], dtype)
        chunk = split_off_bad(numbers, columns, told, lambda row, column: values[row, column])
        chunk.kept.update({columns.names[i]: values[:, i].tolist() for i in columns.keep})
        return chunk
