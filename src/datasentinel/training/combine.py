"""The calibrated combination of several distances into one score."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from datasentinel.training.mapping import IQR_OF_NORMAL

if TYPE_CHECKING:
    from datasentinel.types import Float32Array

# Of the soft maximum over the parts.
SHARPNESS = 2.0
# A distance below this share of the typical one is no more normal still.
LEAST_SHARE = 1e-3
_LEAST_SPREAD = 0.05
# 90 % quantile of a standard normal distribution.
_Q90_OF_NORMAL = 1.2816
_TINY = 1e-9


@dataclass(frozen=True)
class Combination:
    """z = log max(distance / typical, 0.001) gain for each part; score = soft maximum of z over the parts.

    A score of 0 is about as strange as a typical normal row, and +1 one robust standard deviation of the
    logarithm stranger, whatever the part that says so; a part that sees nothing strange cannot spoil it.

    Attributes
    ----------
    inverse_typical, gain : float32 array, shape [parts]
    """

    inverse_typical: Float32Array
    gain: Float32Array

    def apply(self, distances: Float32Array) -> Float32Array:
        """Combine distances, shape [N, parts], into scores, shape [N]."""
        z = np.log(np.maximum(distances * self.inverse_typical, LEAST_SHARE)) * self.gain
        greatest = z.max(axis=1)
        mean = np.exp(SHARPNESS * (z - greatest[:, None])).mean(axis=1)
        scores: Float32Array = greatest + np.log(mean) * (1 / SHARPNESS)
        return scores


def fit_combination(distances: Float32Array) -> Combination:
    """Learn what is typical from distances of held-out normal rows, shape [N, parts]."""
    wide = distances.astype(np.float64)
    floor = np.maximum(LEAST_SHARE * np.median(wide, axis=0), _TINY * LEAST_SHARE)
    logs = np.log(np.maximum(wide, floor))
    q25, q50, q75, q90 = np.percentile(logs, [25, 50, 75, 90], axis=0)
    spread = np.maximum((q75 - q25) / IQR_OF_NORMAL, (q90 - q50) / _Q90_OF_NORMAL)
    return Combination(
        np.exp(-q50).astype(np.float32), (1 / np.maximum(spread, _LEAST_SPREAD)).astype(np.float32)
    )
