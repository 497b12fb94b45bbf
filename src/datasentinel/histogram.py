"""Histograms over fixed edges, and how far two of them are apart."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from datasentinel.types import Float32Array, Float64Array, Int64Array

_DECILES = tuple(i / 10 for i in range(1, 10))
# Stands for the rows that a bin of an endless sample would hold beyond those seen, so that no share is 0.
_PSEUDO_COUNT = 0.5


@dataclass(frozen=True, eq=False)
class Histogram:
    """Counts of values by bin; bin i holds edges[i - 1] < value <= edges[i], the outer ones are unbounded.

    Attributes
    ----------
    edges : float32 array, shape [E]
        Strictly ascending.
    counts : int64 array, shape [E + 1]
    """

    edges: Float32Array
    counts: Int64Array

    @property
    def rows(self) -> int:
        """Number of values counted."""
        return int(self.counts.sum())

    @classmethod
    def of_deciles(cls, values: Float32Array) -> Histogram:
        """Cut `values` [N], N >= 1, at their deciles, with a bin on either side for values beyond them all.

        Tied deciles make one edge. A value that many rows share therefore has a bin that ends at it, and a
        constant column is distinguished from anything below or above it.
        """
        deciles = np.quantile(values, _DECILES, method="lower")
        below = np.nextafter(values.min(), np.float32(-np.inf))
        edges = np.unique(np.concatenate([[below], deciles, [values.max()]]).astype(np.float32))
        return cls.count(values, edges[np.isfinite(edges)])

    @classmethod
    def count(cls, values: Float32Array, edges: Float32Array) -> Histogram:
        """Count `values` [N] between `edges`."""
        bins = np.searchsorted(edges, values, side="left")
        return cls(edges, np.bincount(bins, minlength=len(edges) + 1))


def psi(expected: Int64Array, actual: Int64Array) -> float:
    """Return the population stability index of two counts [B] over the same bins.

    PSI = sum over the bins of (a - e) ln(a / e), with e and a the shares of the bin (Siddiqi, "Credit Risk
    Scorecards", 2006). Half a row is added to every count, so that an empty bin has a share. Without drift it
    is about (B - 1)(1/n + 1/m) for samples of n and m rows.
    """
    e, a = _shares(expected, _PSEUDO_COUNT), _shares(actual, _PSEUDO_COUNT)
    return float(np.sum((a - e) * np.log(a / e)))


def ks(expected: Int64Array, actual: Int64Array) -> float:
    """Return the greatest difference of the distribution functions of two counts [B], taken at the edges.

    It is the Kolmogorov-Smirnov statistic of the values up to what happens inside a bin, so never greater.
    """
    difference = np.cumsum(_shares(actual)) - np.cumsum(_shares(expected))
    return float(np.abs(difference).max())


def ks_critical_value(n: int, m: int, *, alpha: float) -> float:
    """Return what the KS statistic of n and m rows of one distribution exceeds with probability `alpha`.

    The asymptotic formula sqrt(-ln(alpha / 2) / 2 * (n + m) / (n m)).
    """
    return math.sqrt(-math.log(alpha / 2) / 2 * (n + m) / (n * m))


def _shares(counts: Int64Array, pseudo_count: float = 0.0) -> Float64Array:
    raised = np.asarray(counts, dtype=np.float64) + pseudo_count
    shares: Float64Array = raised / raised.sum()
    return shares
