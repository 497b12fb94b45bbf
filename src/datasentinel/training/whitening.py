"""Whitening: rows turned and scaled so that all directions of normal variation count alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from datasentinel.types import Float32Array

# Added to every variance, as a share of their mean: directions without variation stay finite.
RIDGE = 0.01


@dataclass(frozen=True)
class Whitening:
    """w = v `weight` + `bias`; `weight` has shape [D, K], K the smaller of D and the number of rows."""

    weight: Float32Array
    bias: Float32Array

    def apply(self, rows: Float32Array) -> Float32Array:
        """Whiten rows, shape [N, D]."""
        whitened: Float32Array = rows @ self.weight + self.bias
        return whitened


def fit_whitening(rows: Float32Array) -> Whitening:
    """Learn a whitening, shrunk towards the mean variance.

    Parameters
    ----------
    rows : float32 array, shape [N, D]
        Standardised rows.
    """
    wide = rows.astype(np.float64)
    mean = wide.mean(axis=0)
    centred = wide - mean
    count, width = rows.shape
    if count >= width:
        variances, directions = np.linalg.eigh(centred.T @ centred / count)
    else:
        # The same directions out of the smaller matrix; there is no variation in the others.
        variances, combinations = np.linalg.eigh(centred @ centred.T / count)
        kept = variances > 1e-10 * max(float(variances[-1]), np.finfo(np.float64).tiny)
        variances = variances[kept]
        directions = centred.T @ combinations[:, kept] / np.sqrt(count * variances)
    ridge = RIDGE * max(float(variances.sum()), 1e-12) / width
    weight = directions / np.sqrt(np.maximum(variances, 0) + ridge)
    return Whitening(weight.astype(np.float32), (-mean @ weight).astype(np.float32))
