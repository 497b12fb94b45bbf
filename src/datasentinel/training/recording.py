"""Whether rows are a recording, in which neighbours resemble each other, and which rows to hold out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from datasentinel.training.mapping import fit_soft_clip

if TYPE_CHECKING:
    from datasentinel.types import Float32Array, Int64Array

# Of the correlation of neighbouring rows. Rows in random order have about 0, recordings of machines 0.7 and
# more.
_LEAST_CORRELATION = 0.5
# With fewer rows chance alone may look like order.
_LEAST_ROWS = 100


def serial_correlation(rows: Float32Array) -> float:
    """Return the correlation of rows with their successors, averaged over the columns that vary.

    Parameters
    ----------
    rows : float32 array, shape [N, D]
        Finite raw rows in the order in which they were observed.
    """
    soft_clip = fit_soft_clip(rows)
    u = soft_clip.apply(rows)[:, soft_clip.scaling.varying].astype(np.float64)
    if u.size == 0 or len(u) < 2:
        return 0.0
    u -= u.mean(axis=0)
    return float(((u[1:] * u[:-1]).mean(axis=0) / np.square(u).mean(axis=0)).mean())


def is_recording(rows: Float32Array) -> bool:
    """Return whether the order of the rows matters: neighbours are alike.

    Then rows held out at random would be known from their neighbours, and everything learnt from them would
    be too sure of itself.
    """
    return len(rows) >= _LEAST_ROWS and serial_correlation(rows) > _LEAST_CORRELATION


def independent_share(rows: Float32Array) -> float:
    """Return how many independent rows a row stands for, if columns are autoregressive of first order.

    Their effective number is N (1 - r) / (1 + r), r being the serial correlation (G. Bayley, J. Hammersley,
    "The 'effective' number of independent observations in an autocorrelated time series", 1946).
    """
    correlation = min(max(serial_correlation(rows), 0.0), 1.0)
    return (1 - correlation) / (1 + correlation)


def last_rows(count: int, share: float) -> Int64Array:
    """Return the indices of the last `share` of `count` rows, at least two."""
    return np.arange(count - max(2, round(share * count)), count)
