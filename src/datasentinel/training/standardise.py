"""Standardisation of raw columns, with care for constant ones and for float32."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from datasentinel.types import BoolArray, Float32Array, Float64Array

# Of every column, at the least: a hundredth of it still has an inverse in float32.
LEAST_SPREAD = 1e-36
# A departure from a constant by this share of it counts as one standard deviation.
_CONSTANT_SHARE = 0.01


@dataclass(frozen=True)
class Scaling:
    """z = (x - shift) * inverse_scale, in float32 as the exported graph computes it.

    Attributes
    ----------
    shift, scale, inverse_scale : float32 array, shape [D]
        Raw units, raw units, and their inverse.
    varying : bool array, shape [D]
        False for the columns that are constant in the training rows, as far as float32 resolves.
    """

    shift: Float32Array
    scale: Float32Array
    inverse_scale: Float32Array
    varying: BoolArray

    def apply(self, rows: Float32Array) -> Float32Array:
        """Standardise raw rows, shape [N, D]."""
        return (rows - self.shift) * self.inverse_scale


def fit_scaling(rows: Float32Array) -> Scaling:
    """Learn mean and standard deviation of each column.

    The subtraction comes first and in raw units: for values between half and twice the mean it is exact in
    float32 (P. Sterbenz, "Floating-Point Computation", 1974), so a large offset costs no precision beyond
    what the rows lost when they became float32.

    A column that varies by less than the distance between two float32 numbers of its size does not vary. It
    has no scale of its own: one percent of its value counts as one standard deviation, or, for a column of
    zeros, the median deviation of the columns that do vary. So a departure from a constant is noticed, and
    nothing is divided by zero.

    Parameters
    ----------
    rows : float32 array, shape [N, D]
        Finite raw rows.
    """
    wide = rows.astype(np.float64)
    shift = wide.mean(axis=0).astype(np.float32)
    spread = wide.std(axis=0)
    magnitude = np.abs(wide).max(axis=0)
    varying = spread >= np.maximum(resolution(magnitude), LEAST_SPREAD)
    typical = float(np.median(spread[varying])) if varying.any() else 1.0
    of_constant = np.where(magnitude > 0, _CONSTANT_SHARE * magnitude, typical)
    scale = np.maximum(np.where(varying, spread, of_constant), LEAST_SPREAD)
    return Scaling(shift, scale.astype(np.float32), (1.0 / scale).astype(np.float32), varying)


def resolution(magnitude: Float64Array) -> Float64Array:
    """Return the distance of float32 numbers of that magnitude from their neighbours."""
    steps: Float64Array = np.spacing(np.asarray(magnitude).astype(np.float32)).astype(np.float64)
    return steps
