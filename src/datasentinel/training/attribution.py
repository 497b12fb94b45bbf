"""The attribution of a composite score to its features; `datasentinel.export.contributions` is its graph."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from datasentinel.types import Float32Array

# Added to every square, so that the shares of a row without any residual are equal instead of 0 / 0. Far
# below any square that matters, since the values are in standard deviations.
SMALLEST_SQUARE = 1e-12


def attribute(residual: Float32Array, marginal: Float32Array) -> Float32Array:
    """Return the contributions [N, D]: the mean of each feature's shares in the squares of two [N, D]."""
    contributions: Float32Array = (_shares(residual) + _shares(marginal)) * np.float32(0.5)
    return contributions


def _shares(values: Float32Array) -> Float32Array:
    squares = values * values + np.asarray(SMALLEST_SQUARE, values.dtype)
    shares: Float32Array = squares / squares.sum(axis=1, keepdims=True)
    return shares
