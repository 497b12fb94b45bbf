"""Whitening: rows turned and scaled so that all directions of normal variation count alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from datasentinel.types import Float32Array, Float64Array

# Of the mean variance, at least, in every direction: those without variation stay finite.
LEAST_SHRINKAGE = 0.01


@dataclass(frozen=True)
class Whitening:
    """w = v `weight` + `bias`; `weight` has shape [D, D]."""

    weight: Float32Array
    bias: Float32Array

    def apply(self, rows: Float32Array) -> Float32Array:
        """Whiten rows, shape [N, D]."""
        whitened: Float32Array = rows @ self.weight + self.bias
        return whitened


def fit_whitening(rows: Float32Array) -> Whitening:
    """Learn a whitening by a covariance that is shrunk towards the mean variance.

    As few rows as there are columns say little about the directions: new rows would look strange in those
    that the old ones happen to lack. How much to shrink is estimated from the rows: Ledoit and Wolf, "A
    well-conditioned estimator for large-dimensional covariance matrices", 2004, lemma 3.3.

    Parameters
    ----------
    rows : float32 array, shape [N, D]
        Standardised rows.
    """
    wide = rows.astype(np.float64)
    mean = wide.mean(axis=0)
    centred = wide - mean
    count, width = rows.shape
    covariance = centred.T @ centred / count
    shrinkage = max(LEAST_SHRINKAGE, _shrinkage(centred, covariance))
    variances, directions = np.linalg.eigh(covariance)
    mean_variance = max(float(variances.sum()) / width, 1e-12)
    shrunk = (1 - shrinkage) * np.maximum(variances, 0) + shrinkage * mean_variance
    weight = directions / np.sqrt(shrunk)
    return Whitening(weight.astype(np.float32), (-mean @ weight).astype(np.float32))


def _shrinkage(centred: Float64Array, covariance: Float64Array) -> float:
    """Return the share of the mean variance that minimises the expected squared error, 0 to 1."""
    count, width = centred.shape
    signal = float(np.square(covariance).sum())
    # Of single rows' products about the covariance.
    error = (float(np.square(np.square(centred).sum(axis=1)).mean()) - signal) / count
    distance = signal - float(np.trace(covariance)) ** 2 / width
    return min(1.0, max(0.0, error) / distance) if distance > 0 else 1.0
