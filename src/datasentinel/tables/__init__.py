"""Reading and writing of tables: rows of numbers out of files, in bounded memory, and scores into files.

The only place that reads data files. Values stay float64 until the model casts them to float32. A row that
cannot be used (wrong number of fields, not a number, not finite, beyond float32) never passes as data: it
comes back as a `BadRow` with its place and the reason.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from datasentinel.errors import DataError
from datasentinel.tables.base import Dataset, Part, Table
from datasentinel.tables.chunk import Chunk
from datasentinel.tables.encodings import NO_TEXT
from datasentinel.tables.problems import BadRow, Problems
from datasentinel.tables.roles import Columns, LeftOut, Roles, assign
from datasentinel.tables.sources import SAMPLE_BYTES, expand

if TYPE_CHECKING:
    import os

    from datasentinel.tables.number_marks import Marks
    from datasentinel.tables.sources import Source

__all__ = [
    "BadRow",
    "Chunk",
    "Columns",
    "Dataset",
    "LeftOut",
    "Problems",
    "Roles",
    "Table",
    "open_table",
]

_NOT_TABLES = frozenset(
    {".xlsx", ".xls", ".ods", ".zip", ".tar", ".tgz", ".pdf", ".h5", ".hdf5", ".feather", ".arrow", ".avro"}
)
_LIBSVM = re.compile(rb"[-+.\deE]+([ \t]+\d+:[-+.\deE]+)+[ \t]*(#.*)?$")
# Text has none of these characters, or a few by mistake.
_MOST_CONTROL = 0.02


def open_table(
    *paths: str | os.PathLike[str],
    roles: Roles | None = None,
    header: bool | None = None,
    decimal: str | None = None,
) -> Table:
    """Inspect the shape of one or several files of the same columns.

    Parameters
    ----------
    paths : path-like
        Files, patterns such as `"data/*.csv"`, folders, URLs (with fsspec), or "-" for standard input. The
        content decides the format: delimited text, JSON lines, Parquet, an `.npy` array of shape [N, D] or an
        `.npz` archive with `X` [N, D] and, optionally, `y` [N]; each of them plain or packed by gzip, bzip2,
        xz or Zstandard. A Parquet file in folders such as `host=a/` has their keys as columns.
    roles : Roles, optional
        What is asked of the columns. Without it, the label is found by its name and values, and indexes,
        timestamps, identifiers and text are left out.
    header : bool, optional
        Whether delimited text begins with the columns' names; None to infer it.
    decimal : {".", ","}, optional
        The decimal mark in delimited text; the other one is between thousands then. None to infer both.

    Raises
    ------
    DataError
        A file cannot be read or lacks a column, or the columns' roles are unclear.
    MissingDependencyError
        A Parquet file without pyarrow, or a URL without fsspec.
    """
    asked = roles or Roles()
    sources = expand(paths)
    try:
        parts: list[Part] = []
        first: Columns | None = None
        marks = asked.text.marks
        for source in sources:
            # Later files follow the first: what is a feature must not differ between them.
            follows = asked if first is None else _as_in(first, asked)
            part = _open_part(source, follows, header, decimal, marks)
            if part.label_name is not None:
                follows = replace(follows, label=part.label_name)
            columns = assign(
                source.name, part.sample(), follows, named=part.is_named, guess=part.has_other_columns
            )
            part.bind(columns)
            marks = marks or part.marks
            first = first or columns
            if len(columns.features) != len(first.features):
                raise DataError(
                    f"{source.name}: {len(columns.features)} feature columns, but {sources[0].name} has "
                    f"{len(first.features)}"
                )
            parts.append(part)
    except OSError as error:
        raise DataError(f"{error.filename or 'data'}: cannot be read: {error.strerror or error}") from error
    assert first is not None  # noqa: S101
    name = sources[0].name if len(sources) == 1 else f"{len(sources)} files, {sources[0].name} the first"
    return Table(name, parts, first, asked)


def _as_in(first: Columns, asked: Roles) -> Roles:
    """Return the roles of the first file's columns, by name."""
    return Roles(
        features=asked.features,
        time=first.name_of(first.time),
        id=first.name_of(first.id),
        label=first.name_of(first.label) if first.named else asked.label,
        day_first=asked.day_first,
        normal=asked.normal,
        keep=tuple(first.names[c] for c in first.keep if c not in (first.time, first.id)),
        model_features=tuple(first.names[c] for c in first.features),
        needs_label=asked.needs_label and first.label is not None,
    )


def _open_part(
    source: Source, asked: Roles, header: bool | None, decimal: str | None, known: Marks | None
) -> Part:
    head = source.peek(64)
    if source.suffix in (".npy", ".npz") or head.startswith(b"\x93NUMPY"):
        from datasentinel.tables.numpy_table import NumpyPart

        return NumpyPart(source, asked.label)
    if source.suffix in (".parquet", ".pq") or head.startswith(b"PAR1"):
        from datasentinel.tables.parquet_table import ParquetPart

        return ParquetPart(source)
    if source.suffix in _NOT_TABLES or head.startswith(b"PK\x03\x04"):
        raise DataError(
            f"{source.name}: unknown file type '{source.suffix}'; known are CSV and other delimited text, "
            "JSON lines, Parquet, .npy and .npz"
        )
    if head.lstrip().startswith((b"[", b"<")):
        kind = (
            "a JSON document; write JSON lines, an object a line" if head.lstrip()[:1] == b"[" else "markup"
        )
        raise DataError(f"{source.name}: unknown file type: {kind}")
    if source.suffix in (".jsonl", ".ndjson") or head.lstrip().startswith(b"{"):
        from datasentinel.tables.json_table import JsonPart

        return JsonPart(source)
    from datasentinel.tables.csv_table import CsvPart
    from datasentinel.tables.layout import find_layout

    sample = source.peek(SAMPLE_BYTES)
    if len(sample) - len(sample.translate(None, NO_TEXT)) > _MOST_CONTROL * len(sample):
        raise DataError(
            f"{source.name}: no feature columns: the file is neither text nor of a format that is read"
        )
    if _LIBSVM.match(sample.partition(b"\n")[0].strip()):
        raise DataError(
            f"{source.name}: unknown file type: LIBSVM; read it by scikit-learn's load_svmlight_file and "
            "write an .npz archive"
        )
    layout = find_layout(
        source.name,
        sample,
        header=header,
        is_whole=len(sample) < SAMPLE_BYTES,
        decimal=decimal,
        known=known,
        is_scored=asked.num_features is not None,
    )
    return CsvPart(source, layout)
