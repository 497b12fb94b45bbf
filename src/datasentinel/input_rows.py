"""Rows as callers have them, arrays of any kind and data frames, as the float32 arrays that are scored."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np

from datasentinel.errors import InvalidInputError
from datasentinel.missing import fill_forward

if TYPE_CHECKING:
    from datasentinel.artifact import Config
    from datasentinel.types import Float32Array


def rows_of(x: object, config: Config) -> Float32Array:
    """Convert `x`; the columns of a data frame, and of a series for one row, are taken by name.

    Raises
    ------
    InvalidInputError
        As of `as_float32_rows`, or a data frame's columns are not those of the model.
    """
    names = config.feature_names
    if names and not isinstance(x, np.ndarray):
        # Imported here: arrays are scored without it.
        from datasentinel.tables.frames import is_frame, numbers_of, row_of

        if is_frame(x):
            return as_float32_rows(numbers_of(x, names, config.other_columns))
        if (row := row_of(x, names)) is not None:
            return as_float32_rows(row)
    return as_float32_rows(x)


def recording_of(x: object, config: Config) -> Float32Array:
    """Convert `x` as `rows_of`, with values for those that are missing where the model carries them."""
    rows = rows_of(x, config)
    first_values = config.first_values
    if not first_values or rows.shape[-1] != len(first_values):  # The core refuses rows of another width.
        return rows
    return fill_forward(np.atleast_2d(rows), first_values).reshape(rows.shape)


def refuse_masked(x: object) -> None:
    """Raise an InvalidInputError, with row and column, for an array with a masked value."""
    if isinstance(x, np.ma.MaskedArray) and np.ma.is_masked(x):
        row, column = np.argwhere(np.atleast_2d(np.ma.getmaskarray(x)))[0]
        raise InvalidInputError(f"the value at row {row}, column {column} is masked")


def as_float32_rows(x: object) -> Float32Array:
    """Convert numeric input to a C-contiguous float32 array, once and loudly.

    Parameters
    ----------
    x : array_like of real numbers, shape [N, D] or [D]
        Booleans, integers and floats of any width, also pandas's nullable and Arrow ones, polars's, and as
        objects, where None is NaN. Values are rounded to the nearest float32.

    Returns
    -------
    ndarray of float32, C-contiguous, of the same shape

    Raises
    ------
    InvalidInputError
        Not numeric, complex, masked, not of rank 1 or 2, or an object that is no number or a finite value too
        large for float32 (row and column are named). NaN and infinities pass through: scoring refuses them,
        with their position.
    """
    refuse_masked(x)
    if not isinstance(x, np.ndarray):
        from datasentinel.tables.frames import is_frame, numbers_of

        x = numbers_of(x, ()) if is_frame(x) else x
    try:
        lent = hasattr(x, "__dlpack__") and not hasattr(x, "__array__")
        array = np.from_dlpack(cast("Any", x)) if lent else np.asarray(x)
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        raise InvalidInputError(f"x is not a rectangular array of numbers: {error}") from error
    if array.ndim not in (1, 2):
        raise InvalidInputError(f"x must have shape [N, D] or [D], got {array.shape}")
    if array.dtype.kind == "O":
        from datasentinel.tables.frames import numbers_of_objects

        array = numbers_of_objects(array)
    if array.dtype.kind not in "fiub":
        raise InvalidInputError(f"x must hold real numbers, got dtype {array.dtype}")
    with np.errstate(over="ignore"):
        rows = np.ascontiguousarray(array, dtype=np.float32)
    if array.dtype.kind == "f" and array.dtype.itemsize > 4:
        overflowed = np.isinf(rows) & np.isfinite(array)
        if overflowed.any():
            row, column = np.argwhere(np.atleast_2d(overflowed))[0]
            value = np.atleast_2d(array)[row, column]
            raise InvalidInputError(
                f"value {value:g} at row {row}, column {column} is outside float32's range"
            )
    return rows
