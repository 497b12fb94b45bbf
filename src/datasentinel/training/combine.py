"""The calibrated combination of several distances into one score."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from datasentinel.training.mapping import IQR_OF_NORMAL

if TYPE_CHECKING:
    from collections.abc import Sequence

    from datasentinel.types import BoolArray, Float32Array, Float64Array, Int64Array

# Of the soft maximum over the parts.
SHARPNESS = 2.0
# A part's z is no less: what is so many standard deviations more normal than usual is no more normal still.
LEAST_Z = -10.0
_LEAST_SPREAD = 0.05
# 90 % quantile of a standard normal distribution.
_Q90_OF_NORMAL = 1.2816
_TINY = 1e-12
# A sample of z is above another if it is after so many standard deviations were taken off, at this level of
# significance.
_TOLERATED_SHIFT = 0.25
_SIGNIFICANCE = 1e-4


@dataclass(frozen=True)
class Combination:
    """z = least + gain log max(distance / resolution, 1) for each part; s = soft maximum of z over the parts.

    So s = 0 is about as strange as a typical normal row, and +1 one robust standard deviation of the
    logarithm stranger, whatever the part that says so; a part that sees nothing strange cannot spoil it. The
    score is 1 + s where s > 0 and exp s below: positive, smooth, and 1 for a typical normal row.

    Attributes
    ----------
    inverse_resolution : float32 array, shape [parts]
        Distances below the resolution are as good as zero.
    gain : float32 array, shape [parts]
    least : float32 array, shape [parts]
        z of such distances, at least `LEAST_Z`.
    """

    inverse_resolution: Float32Array
    gain: Float32Array
    least: Float32Array

    def part_scores(self, distances: Float32Array) -> Float32Array:
        """Return z of each part, shape [N, parts]."""
        z: Float32Array = np.log(np.maximum(distances * self.inverse_resolution, 1)) * self.gain + self.least
        return z

    def apply(self, distances: Float32Array) -> Float32Array:
        """Combine distances, shape [N, parts], into scores, shape [N]."""
        z = self.part_scores(distances)
        greatest = z.max(axis=1)
        mean = np.exp(SHARPNESS * (z - greatest[:, None])).mean(axis=1)
        soft_maximum = greatest + np.log(mean) * (1 / SHARPNESS)
        scores: Float32Array = np.exp(np.minimum(soft_maximum, 0)) + np.maximum(soft_maximum, 0)
        return scores

    def only(self, kept: Int64Array) -> Combination:
        """Return the combination of the parts at these places alone."""
        return Combination(self.inverse_resolution[kept], self.gain[kept], self.least[kept])


def fit_combination(distances: Float32Array, resolution: Float64Array, usual: Sequence[float]) -> Combination:
    """Learn what is usual.

    Parameters
    ----------
    distances : float32 array, shape [N, parts]
        Of held-out normal rows.
    resolution : float64 array, shape [parts]
        Distances below it carry no information and count as this much, so that none is typically zero.
    usual : sequence of float, length [parts]
        Which percentile of a part's distances is at z = 0.
    """
    least = np.maximum(resolution, _TINY)
    logs = np.log(np.maximum(distances.astype(np.float64), least))
    q25, q50, q75, q90 = np.percentile(logs, [25, 50, 75, 90], axis=0)
    zero = np.array([np.percentile(log, percent) for log, percent in zip(logs.T, usual, strict=True)])
    spread = np.maximum((q75 - q25) / IQR_OF_NORMAL, (q90 - q50) / _Q90_OF_NORMAL)
    gain = 1 / np.maximum(spread, _LEAST_SPREAD)
    least_log = np.maximum(zero + LEAST_Z / gain, np.log(least))
    return Combination(
        np.exp(-least_log).astype(np.float32),
        gain.astype(np.float32),
        ((least_log - zero) * gain).astype(np.float32),
    )


def stranger(first: Float32Array, second: Float32Array) -> BoolArray:
    """Return in which parts the second sample of z, shape [M, parts], is above the first, shape [N, parts].

    The one-sided two-sample Kolmogorov-Smirnov test with its asymptotic bound and a tolerance.
    """
    n, m = len(first), len(second)
    critical = np.sqrt(-np.log(_SIGNIFICANCE) / 2 * (n + m) / (n * m))
    pairs = zip(np.sort(first, axis=0).T, np.sort(second, axis=0).T, strict=True)
    return np.array([_excess(low, high) > critical for low, high in pairs], dtype=bool)


def _excess(low: Float32Array, high: Float32Array) -> float:
    """Return how far the distribution function of `high`, less the tolerance, stays below that of `low`."""
    below = np.searchsorted(high - np.float32(_TOLERATED_SHIFT), low, side="right") / len(high)
    return float(np.max(np.arange(1, len(low) + 1) / len(low) - below))
