"""Principal components, the best linear autoencoder in closed form."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from datasentinel.types import Float32Array, Float64Array

# The usual share of the variance that principal component analysis is asked to keep.
EXPLAINED_VARIANCE = 0.95


def principal_components(standardised: Float32Array) -> tuple[Float64Array, Float64Array]:
    """Return the variances [D], greatest first, and the unit directions [D, D], one a row.

    Parameters
    ----------
    standardised : float32 array, shape [N, D]
        Rows with mean zero.
    """
    wide = standardised.astype(np.float64)
    variances, directions = np.linalg.eigh(wide.T @ wide / len(wide))
    return np.maximum(variances[::-1], 0.0), directions.T[::-1]


def components_for(variances: Float64Array, share: float = EXPLAINED_VARIANCE) -> int:
    """Return how many components carry `share` of the variance; at least 1."""
    total = float(variances.sum())
    if total == 0.0:
        return 1
    return int(np.searchsorted(np.cumsum(variances) / total, share)) + 1
