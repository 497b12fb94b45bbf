"""Rows of numbers out of CSV, Parquet and NumPy files, in bounded memory.

Values stay float64 until the model casts them to float32. A row that cannot be used (wrong number of fields,
not a number, not finite, beyond float32) never passes as data: it comes back as a `BadRow` with its place and
the reason.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from datasentinel.datasets.base import BadRow, Chunk, DataFile, Dataset
from datasentinel.datasets.csv_file import CsvFile
from datasentinel.datasets.numpy_file import NumpyFile
from datasentinel.datasets.parquet_file import ParquetFile
from datasentinel.errors import DataError

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

__all__ = ["BadRow", "Chunk", "DataFile", "Dataset", "open_data"]

CSV_SUFFIXES = (".csv", ".tsv", ".txt", ".data")
PARQUET_SUFFIXES = (".parquet", ".pq")
NUMPY_SUFFIXES = (".npy", ".npz")


def open_data(
    path: str | os.PathLike[str],
    *,
    label: str | None = None,
    header: bool | None = None,
    features: Sequence[str] = (),
) -> DataFile:
    """Look at a data file's shape.

    Parameters
    ----------
    path : path-like
        A CSV file (`.csv`, `.tsv`, `.txt`, `.data`; separated by commas, semicolons or tabs), a Parquet file,
        an `.npy` array of shape [N, D] or an `.npz` archive with `X` [N, D] and, optionally, `y` [N].
    label : str, optional
        The label column: its name, or its number counted from 1 (from -1 backwards); in an `.npz` archive the
        label array's name. Without it, a last column named "label" is the label, and so is `y`. In the label
        column 0 means normal, any other number an anomaly.
    header : bool, optional
        Whether a CSV file's first line names the columns; None to find out.
    features : sequence of str
        Take the columns of these names, in this order, where the file names its columns; otherwise all
        columns but the label are features.

    Raises
    ------
    DataError
        The file cannot be read or lacks a column.
    MissingDependencyError
        A Parquet file, without pyarrow.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if not path.is_file():
        raise DataError(f"{path}: {'not a file' if path.exists() else 'no such file'}")
    try:
        if suffix in CSV_SUFFIXES:
            return CsvFile(path, label, header, features)
        if suffix in PARQUET_SUFFIXES:
            return ParquetFile(path, label, features)
        if suffix in NUMPY_SUFFIXES:
            return NumpyFile(path, label)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    known = ", ".join((*CSV_SUFFIXES, *PARQUET_SUFFIXES, *NUMPY_SUFFIXES))
    raise DataError(f"{path}: unknown file type '{suffix}'; known are {known}")
