"""Standardisation of raw columns, with care for constant ones and for float32."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from datasentinel.types import BoolArray, Float32Array

# A spread below this share of a column's magnitude is float32 rounding (one part in 1.7e7), not information.
_RESOLUTION = 1e-6
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
        False for the columns that are constant in the training rows.
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

    The subtraction comes first and in raw units: for values near the mean it is exact in float32, so a large
    offset costs no precision. A column that does not vary has no scale of its own: one percent of its value
    counts as one standard deviation, or, for a column of zeros, the median deviation of the columns that do
    vary. So a departure from a constant is noticed, and nothing is divided by zero.

    Parameters
    ----------
    rows : float32 array, shape [N, D]
        Finite raw rows.
    """
    wide = rows.astype(np.float64)
    shift = wide.mean(axis=0).astype(np.float32)
    spread = wide.std(axis=0)
    magnitude = np.abs(wide).max(axis=0)
    # The least normal float32 keeps the inverse finite.
    varying = spread > np.maximum(_RESOLUTION * magnitude, np.finfo(np.float32).tiny)
    typical = float(np.median(spread[varying])) if varying.any() else 1.0
    of_constant = np.where(magnitude > 0, _CONSTANT_SHARE * magnitude, typical)
    scale = np.maximum(np.where(varying, spread, of_constant), np.finfo(np.float32).tiny)
    return Scaling(shift, scale.astype(np.float32), (1.0 / scale).astype(np.float32), varying)
