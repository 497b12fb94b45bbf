"""Maps of raw columns that keep heavy tails from drowning everything else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from datasentinel.training.standardise import Scaling, fit_scaling

if TYPE_CHECKING:
    from datasentinel.types import Float32Array

# Standard deviations; beyond it a value counts logarithmically, unless a detector chooses otherwise.
KNEE = 3.0
# Keeps the square of a standardised value finite in float32.
LARGEST = 1e18
# The inverse of the soft clip grows exponentially: this many times the knee is where it stops.
LARGEST_EXPONENT = 60.0
# Interquartile ranges are no smaller than this share of a standard deviation.
_LEAST_IQR_SHARE = 0.02
# Interquartile range of a normal distribution in standard deviations.
IQR_OF_NORMAL = 1.349


@dataclass(frozen=True)
class SoftClip:
    """u = sign(z) (min(|z|, knee) + knee log max(|z| / knee, 1)) of standardised columns z.

    The identity up to `knee` standard deviations, logarithmic and smooth beyond.
    """

    scaling: Scaling
    knee: float = KNEE

    def apply(self, rows: Float32Array) -> Float32Array:
        """Map raw rows, shape [N, D]."""
        return self.clip(self.scaling.apply(rows))

    def clip(self, z: Float32Array) -> Float32Array:
        """Map standardised rows."""
        magnitude = np.minimum(np.abs(z), LARGEST)
        tail = self.knee * np.log(np.maximum(magnitude * (1 / self.knee), 1))
        return np.asarray(np.sign(z) * (np.minimum(magnitude, self.knee) + tail), z.dtype)

    def invert(self, mapped: Float32Array) -> Float32Array:
        """Map rows back to raw units."""
        magnitude = np.abs(mapped)
        beyond = np.maximum(magnitude * (1 / self.knee) - 1, 0)
        tail = self.knee * np.expm1(np.minimum(beyond, LARGEST_EXPONENT))
        z = np.sign(mapped) * (np.minimum(magnitude, self.knee) + tail)
        return np.asarray(z * self.scaling.scale + self.scaling.shift, mapped.dtype)


@dataclass(frozen=True)
class RobustMap:
    """v = asinh((x - median) / iqr / knee) gain + offset, of mean 0 and variance 1 on the training rows.

    All attributes are float32 arrays of shape [D]; `inverse_iqr` is 1 / (iqr knee).
    """

    median: Float32Array
    inverse_iqr: Float32Array
    gain: Float32Array
    offset: Float32Array

    def apply(self, rows: Float32Array) -> Float32Array:
        """Map raw rows, shape [N, D]."""
        t = (rows - self.median) * self.inverse_iqr
        magnitude = np.minimum(np.abs(t), LARGEST)
        # asinh in the operators that the exported graph has.
        asinh = np.sign(t) * np.log(magnitude + np.sqrt(magnitude * magnitude + 1))
        mapped: Float32Array = asinh * self.gain + self.offset
        return mapped


def fit_soft_clip(rows: Float32Array, *, knee: float = KNEE) -> SoftClip:
    """Learn the standardisation below the soft clip from raw rows, shape [N, D]."""
    return SoftClip(fit_scaling(rows), knee)


def fit_robust_map(rows: Float32Array, scaling: Scaling, *, knee: float = 1.0) -> RobustMap:
    """Learn medians, interquartile ranges and the final standardisation.

    Where more than half of a column is one value, its interquartile range says nothing and the standard
    deviation takes its place.

    Parameters
    ----------
    rows : float32 array, shape [N, D]
        Finite raw rows.
    scaling : Scaling
        The standardisation of the same rows.
    knee : float
        Interquartile ranges, as a normal distribution's standard deviations; the map is all but linear up to
        it and logarithmic beyond.
    """
    lower, median, upper = np.percentile(rows.astype(np.float64), [25, 50, 75], axis=0)
    iqr = (upper - lower) / IQR_OF_NORMAL
    iqr = np.maximum(iqr, np.where(upper > lower, _LEAST_IQR_SHARE, 1.0) * scaling.scale)
    centre, inverse = median.astype(np.float32), (1 / (iqr * knee)).astype(np.float32)
    # With the constants as they were rounded, or a large offset would come back as a shift.
    asinh = np.arcsinh((rows.astype(np.float64) - centre) * inverse)
    spread = np.where(scaling.varying, asinh.std(axis=0), 1.0)
    spread = np.where(spread > 0, spread, 1.0)
    offset = -asinh.mean(axis=0) / spread
    return RobustMap(centre, inverse, (1 / spread).astype(np.float32), offset.astype(np.float32))
