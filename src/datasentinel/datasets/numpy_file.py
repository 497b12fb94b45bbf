"""NumPy files."""

from __future__ import annotations

import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np

from datasentinel.datasets.base import Chunk, DataFile, select_columns
from datasentinel.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import numpy.typing as npt

    from datasentinel.types import Float64Array


class NumpyFile(DataFile):
    """An `.npy` array, mapped into memory, or the arrays `X` and `y` of an `.npz` archive, read at once."""

    def __init__(self, path: Path, label: str | None) -> None:
        self._labels: npt.NDArray[Any] | None = None
        try:
            if path.suffix.lower() == ".npz":
                with np.load(path, allow_pickle=False) as archive:
                    if "X" not in archive:
                        there = ", ".join(archive.files)
                        raise DataError(f"{path}: no array 'X' in the archive, which holds {there}")
                    if label is not None and label not in archive:
                        raise DataError(f"{path}: no label array '{label}' in the archive")
                    self._values = archive["X"]
                    self._labels = archive.get(label or "y", None)
            else:
                self._values = np.load(path, allow_pickle=False, mmap_mode="r")
        except (ValueError, EOFError, zipfile.BadZipFile) as error:
            if isinstance(error, DataError):
                raise
            raise DataError(f"{path}: not a NumPy file of numbers: {error}") from error
        self._check(path, "X", self._values, 2)
        width = self._values.shape[1]
        if self._labels is not None:
            self._check(path, label or "y", self._labels, 1)
            if len(self._labels) != len(self._values):
                raise DataError(f"{path}: {len(self._labels)} labels for {len(self._values)} rows")
        columns = select_columns(path, (), width, label if self._labels is None else None, ())
        super().__init__(path, columns, has_labels=self._labels is not None or columns.label is not None)

    @staticmethod
    def _check(path: Path, name: str, array: npt.NDArray[Any], dimensions: int) -> None:
        if array.dtype.kind not in "biuf":
            raise DataError(f"{path}: array '{name}' holds {array.dtype}, not numbers")
        if array.ndim != dimensions:
            expected = "[rows, columns]" if dimensions == 2 else "[rows]"
            raise DataError(f"{path}: array '{name}' has shape {list(array.shape)}, expected {expected}")

    def chunks(self, chunk_rows: int | None = None) -> Iterator[Chunk]:
        """See `DataFile.chunks`."""
        step = chunk_rows or self.chunk_rows
        for first in range(0, len(self._values), step):
            block = np.asarray(self._values[first : first + step], dtype=np.float64)
            rows = np.arange(first, first + len(block))
            labels: Float64Array | None = None
            if self._labels is not None:
                labels = np.asarray(self._labels[first : first + step], dtype=np.float64)
            elif self._columns.label is not None:
                labels = block[:, self._columns.label]
            share_read = (first + len(block)) / len(self._values)
            yield self._chunk(block[:, list(self._columns.features)], labels, rows, share_read=share_read)
