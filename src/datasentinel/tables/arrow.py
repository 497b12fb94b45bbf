"""Arrow record batches as chunks of a table, and scored chunks as record batches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from datasentinel.errors import DataError, InvalidInputError, MissingDependencyError
from datasentinel.tables import labels
from datasentinel.tables.base import split_off_bad
from datasentinel.tables.sample_column import SampleColumn
from datasentinel.tables.scored import reasons_as_data

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from datasentinel.tables.chunk import Chunk
    from datasentinel.tables.roles import Columns
    from datasentinel.tables.scored import OutputColumns, Scored


# Well within a second-level cache (1 to 2 MiB where it is a core's own), beside the columns read from.
_BLOCK_BYTES = 1 << 19
_DURATIONS_PER_S = {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}


def import_pyarrow() -> Any:  # noqa: ANN401
    """Import pyarrow, or say what to install."""
    try:
        import pyarrow as pa
    except ImportError as error:
        raise MissingDependencyError(
            'Arrow and Parquet need pyarrow: pip install "datasentinel[parquet]"'
        ) from error
    return pa


def nested_type(kind: Any) -> str:  # noqa: ANN401
    """Return the name of a type that is neither a number nor text nor a time, or an empty string."""
    types = import_pyarrow().types
    kind = kind.value_type if types.is_dictionary(kind) else kind
    return str(kind) if types.is_nested(kind) or "binary" in str(kind) else ""


def has_order(kind: Any) -> bool:  # noqa: ANN401
    """Whether the values of a type are in order of time when they ascend: times and numbers, no text."""
    types = import_pyarrow().types
    return bool(types.is_temporal(kind) or types.is_integer(kind) or types.is_floating(kind))


def validate(batch: Any) -> None:  # noqa: ANN401
    """Check a pyarrow.RecordBatch from elsewhere before its values are read; Arrow trusts its offsets.

    Raises
    ------
    InvalidInputError
        Its buffers are not what its schema says; the column is named.
    """
    pa = import_pyarrow()
    where = ""
    try:
        batch.validate()
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            where = f"column '{name}': "
            column.validate(full=True)
    except pa.ArrowException as error:
        raise InvalidInputError(f"a malformed record batch: {where}{error}") from error


def schema_columns(schema: Any) -> list[SampleColumn]:  # noqa: ANN401
    """Return a schema's columns, of which no values are known yet."""
    return [SampleColumn(field.name, [], nested=nested_type(field.type)) for field in schema]


def chunk_of(
    batch: Any,  # noqa: ANN401
    columns: Columns,
    dtype: type,
    *,
    where: str,
    keys: Mapping[str, str] | None = None,
) -> Chunk:
    """Take the rows out of a record batch.

    Parameters
    ----------
    batch : pyarrow.RecordBatch
        It has all columns that have a role.
    columns : Columns
        What each column is.
    dtype : type
        Of the rows, numpy.float32 or numpy.float64.
    where : str
        Where the batch is from, for messages.
    keys : mapping of str to str, optional
        Columns that have one value in all rows and are not in the batch.

    Raises
    ------
    DataError
        A feature holds what cannot be read as numbers; the column is named.
    """
    keys = keys or {}
    numbers = np.empty((batch.num_rows, len(columns.features)), dtype)
    names = [columns.names[column] for column in columns.features]
    _fill(
        numbers,
        [float(keys[n]) if n in keys else numbers_of_column(batch.column(n), n, where) for n in names],
    )
    label_values = None
    if columns.label is not None:
        name = columns.names[columns.label]
        values = [keys[name]] * len(numbers) if name in keys else batch.column(name).to_pylist()
        label_values = labels.normalise_all(values)

    def original(row: int, column: int) -> Any:  # noqa: ANN401
        name = columns.names[column]
        return keys[name] if name in keys else batch.column(name)[row].as_py()

    chunk = split_off_bad(numbers, columns, label_values, original)
    for column in columns.keep:
        name = columns.names[column]
        chunk.kept[name] = [keys[name]] * len(numbers) if name in keys else batch.column(name)
    return chunk


def _fill(rows: npt.NDArray[Any], columns: list[npt.NDArray[Any] | float]) -> None:
    """Write columns side by side into rows [n, D], a block at a time, which stays in cache meanwhile."""
    block_rows = max(1, _BLOCK_BYTES // max(1, rows[:1].nbytes))
    with np.errstate(over="ignore", invalid="ignore"):
        for first in range(0, len(rows), block_rows):
            block = rows[first : first + block_rows]
            for i, column in enumerate(columns):
                block[:, i] = column if isinstance(column, float) else column[first : first + block_rows]


def numbers_of_column(column: Any, name: str, where: str) -> npt.NDArray[Any]:  # noqa: ANN401
    """Return an Arrow array as numbers: durations in seconds, nulls as NaN.

    Raises
    ------
    DataError
        It holds something else; the column is named.
    """
    pa = import_pyarrow()
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if column.null_count == 0 and (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
        # Arrow's own to_numpy imports pandas where that is installed, which takes longer than many files.
        plain = np.frombuffer(column.buffers()[1], dtype=column.type.to_pandas_dtype())
        return plain[column.offset : column.offset + len(column)]
    try:
        # A null becomes NaN, and so a bad row, which `chunk_of` tells from one with a NaN.
        unit = _DURATIONS_PER_S[column.type.unit] if pa.types.is_duration(column.type) else 1.0
        if pa.types.is_temporal(column.type):
            column = column.cast(pa.int64(), safe=False)
        numbers: npt.NDArray[Any] = column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
        if unit > 1:
            numbers = numbers / unit
    except pa.ArrowException as error:
        raise DataError(f"{where}: column '{name}' holds {column.type}, not numbers: {error}") from error
    return numbers


def output_schema(schema: Any, columns: OutputColumns, *, with_rows: bool = True) -> Any:  # noqa: ANN401
    """Return the schema of what `batch_of` makes of batches of a schema.

    That is row (int64) where it is wanted, the columns handed through with the types that they have, score
    (float32), anomaly (bool), error (string), and what else there is: severity (float32), p_value (float64),
    reasons (list) and warming (bool). A reason is a struct of feature (string), value, expected and share
    (float32).
    """
    pa = import_pyarrow()

    def plain(kind: Any) -> Any:  # noqa: ANN401
        return kind.value_type if pa.types.is_dictionary(kind) else kind

    fields = {"row": pa.int64()} if with_rows else {}
    fields |= {told: plain(schema.field(name).type) for name, told in columns.kept_as.items()}
    fields |= {"score": pa.float32(), "anomaly": pa.bool_(), "error": pa.string()}
    asked_for = {
        "severity": (columns.severity, pa.float32()),
        "p_value": (columns.p_value, pa.float64()),
        "reasons": (columns.num_reasons > 0, _reasons_type(pa)),
        "warming": (columns.warming, pa.bool_()),
    }
    return pa.schema(fields | {name: kind for name, (wanted, kind) in asked_for.items() if wanted})


def batch_of(scored: Scored, columns: OutputColumns, *, with_rows: bool = True) -> Any:  # noqa: ANN401
    """Make a record batch of scored rows.

    Parameters
    ----------
    scored : Scored
    columns : OutputColumns
    with_rows : bool
        Whether rows have a position in their table: then `row` is the first column, and errors begin with it.

    Returns
    -------
    pyarrow.RecordBatch
        As `output_schema` says. What a bad row does not have is null, and so is the error of a good one.
    """
    pa = import_pyarrow()
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

    fields = {}
    if with_rows:
        numbers = np.arange(scored.row_numbers.start, scored.row_numbers.stop)
        fields["row"] = pa.Array.from_buffers(pa.int64(), len(good), [None, pa.py_buffer(numbers)])
    for name, told in columns.kept_as.items():
        fields[told] = _kept(scored.chunk.kept[name])
    fields["score"] = column(scored.scores, pa.float32())
    fields["anomaly"] = column(scored.anomalies, pa.bool_())
    fields["error"] = (
        pa.nulls(len(good), pa.string())
        if whole
        else pa.array(scored.errors(good=None, with_place=with_rows), pa.string())
    )
    if scored.severities is not None:
        fields["severity"] = column(scored.severities, pa.float32())
    if scored.p_values is not None:
        fields["p_value"] = column(scored.p_values, pa.float64())
    if scored.reasons is not None:
        told_reasons = scored.spread(list(map(reasons_as_data, scored.reasons)))
        fields["reasons"] = pa.array(told_reasons, type=_reasons_type(pa))
    if scored.warming is not None:
        fields["warming"] = column(scored.warming, pa.bool_())
    return pa.RecordBatch.from_arrays(list(fields.values()), names=list(fields))


def _reasons_type(pa: Any) -> Any:  # noqa: ANN401
    single = pa.float32()
    return pa.list_(pa.struct({"feature": pa.string(), "value": single, "expected": single, "share": single}))


def _kept(values: Any) -> Any:  # noqa: ANN401
    pa = import_pyarrow()
    if isinstance(values, list):
        # Halves of characters, which JSON can hold, become escapes.
        texts = [None if v is None else str(v).encode("utf-8", "backslashreplace") for v in values]
        return pa.array(texts, pa.binary()).cast(pa.string())
    return values.dictionary_decode() if pa.types.is_dictionary(values.type) else values
