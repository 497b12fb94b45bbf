"""Prototypes: up to a few thousand points that stand for the training rows."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch  # noqa: TID251

if TYPE_CHECKING:
    from datasentinel.types import Float32Array, Float64Array

# How many of the nearest prototypes a row is compared with.
NEIGHBOURS = 3
# What float32 leaves of a squared distance, as a share of the row's squared length.
RESOLUTION = 4e-7
TINY = 1e-12
_ROUNDS = 4
# Columns.
_DIRECT_UP_TO, _DEAR_FROM = 8, 120
# Prototypes in one space: few enough for 3 us a row of 10 columns and 25 us a row of 100 columns on one core.
# More were measured to help little.
_MOST, _FEWEST = 1024, 640
_CHUNK_ROWS = 2048


@dataclass(frozen=True)
class Scale:
    """How distances are divided by a power of each prototype's local scale.

    Attributes
    ----------
    fellows : int
        The local scale is the mean distance to so many of the nearest other prototypes.
    power : float
        0 for plain distances, 1 for multiples of the local scale.
    """

    fellows: int
    power: float


# Halfway between plain and relative distances, and relative ones, for which the scale has to be smoother.
SCALES = (Scale(fellows=10, power=0.5), Scale(fellows=40, power=1.0))
# The power grows with the number of rows N as N / (N + this): of a few rows the local scale is noise.
_ROWS_OF_HALF_TRUST = 300.0
# No local scale is below this share of the median one.
_LEAST_SCALE = 0.1


@dataclass(frozen=True)
class Prototypes:
    """Points, and what distances to each are multiplied by on several scales.

    Attributes
    ----------
    centres : float32 array, shape [P, D]
    gains : float32 array, shape [scales, P]
        Of the squared distances; 1 where the prototypes are as dense as usual.
    """

    centres: Float32Array
    gains: Float32Array

    @property
    def neighbours(self) -> int:
        """How many of the nearest prototypes a row is compared with."""
        return min(NEIGHBOURS, len(self.centres))

    @property
    def is_direct(self) -> bool:
        """Whether distances are sums of squared differences rather than expanded to one matrix product.

        Prototypes of narrow rows lie so close together that little of a squared distance would be left of the
        rounding of |z|^2 and |c|^2.
        """
        width: int = self.centres.shape[1]
        return width <= _DIRECT_UP_TO

    @cached_property
    def weight(self) -> Float32Array:
        """Turns [z, |z|^2] into squared distances on the first scale, with `bias`; shape [D + 1, P]."""
        wide = np.vstack([-2 * self.centres.T.astype(np.float64), np.ones(len(self.centres))])
        weight: Float32Array = (wide * self.gains[0]).astype(np.float32)
        return weight

    @cached_property
    def bias(self) -> Float32Array:
        """|c|^2 of each prototype on the first scale, shape [P]."""
        squares = np.square(self.centres.astype(np.float64)).sum(axis=1)
        bias: Float32Array = (squares * self.gains[0]).astype(np.float32)
        return bias

    @cached_property
    def ratios(self) -> Float32Array:
        """The gains of the other scales over those of the first, shape [scales - 1, P]."""
        ratios: Float32Array = self.gains[1:] / self.gains[0]
        return ratios

    @cached_property
    def rounding(self) -> Float32Array:
        """What float32 leaves of squared distances on each scale, as a share of the row's squared length."""
        share: Float32Array = RESOLUTION * self.gains.max(axis=1)
        return share

    def distances(self, rows: Float32Array) -> Float32Array:
        """Mean distance of each row [N, D] to its nearest prototypes on each scale, shape [N, scales]."""
        length = np.square(rows).sum(axis=1, keepdims=True)
        if self.is_direct:
            columns = zip(rows.T, self.centres.T, strict=True)
            differences = (np.square(x[:, None] - c) for x, c in columns)
            squares = functools.reduce(np.add, differences) * self.gains[0]
        else:
            squares = np.hstack([rows, length]) @ self.weight + self.bias
        scaled = [squares, *(squares * ratio for ratio in self.ratios)]
        return np.stack(
            [
                self._mean_of_nearest(values, 0 if self.is_direct else share * length)
                for values, share in zip(scaled, self.rounding, strict=True)
            ],
            axis=1,
        )

    def _mean_of_nearest(self, squares: Float32Array, least: Float32Array | int) -> Float32Array:
        nearest = np.partition(squares, self.neighbours - 1, axis=1)[:, : self.neighbours]
        mean: Float32Array = np.sqrt(np.maximum(nearest, np.asarray(least + TINY, squares.dtype))).mean(
            axis=1
        )
        return mean


@dataclass(frozen=True)
class DistinctRows:
    """Rows without repetitions, float32 [N, D], and how often each occurs, float32 [N]."""

    rows: Float32Array
    counts: Float32Array


def distinct(rows: Float32Array) -> DistinctRows:
    """Count repeated rows instead of keeping them; the order is that of the values."""
    unique, counts = np.unique(rows, axis=0, return_counts=True)
    return DistinctRows(unique, counts.astype(np.float32))


def prototype_count(width: int) -> int:
    """Return how many prototypes rows of `width` columns are worth in one space, for the time they cost."""
    return max(_FEWEST, min(_MOST, _MOST * _DEAR_FROM // width))


def fit_prototypes(
    points: DistinctRows, count: int, *, trusted_rows: int, random: np.random.Generator
) -> Prototypes:
    """Learn prototypes: all distinct rows of a small set, k-means centres of a large one.

    Distances are relative to how far apart the prototypes around are, because what is near depends on where
    one is: Breunig et al., "LOF: identifying density-based local outliers", 2000.

    Parameters
    ----------
    points : DistinctRows
    count : int
        Of prototypes, at most.
    trusted_rows : int
        How many rows local scales come from, repetitions included; the more, the more they count.
    random : Generator
        Chooses the rows to start from.
    """
    centres = k_means(points, count, _ROUNDS, random)
    trust = trusted_rows / (trusted_rows + _ROWS_OF_HALF_TRUST)
    scales = _local_scales(centres, [scale.fellows for scale in SCALES])
    powers = [-2 * trust * scale.power for scale in SCALES]
    gains = np.stack([scale**power for scale, power in zip(scales, powers, strict=True)])
    return Prototypes(centres, gains.astype(np.float32))


def _local_scales(centres: Float32Array, fellows: list[int]) -> list[Float64Array]:
    """Mean distances to the nearest other centres, so many for each result, as shares of their median."""
    others = min(max(fellows), len(centres) - 1)
    if others == 0:
        return [np.ones(len(centres)) for _ in fellows]
    points = torch.from_numpy(centres)
    exact = "donot_use_mm_for_euclid_dist" if centres.shape[1] <= _DIRECT_UP_TO else "use_mm_for_euclid_dist"
    nearest = torch.cat(
        [
            torch.cdist(chunk, points, compute_mode=exact).topk(others + 1, largest=False).values[:, 1:]
            for chunk in torch.split(points, _CHUNK_ROWS)
        ]
    ).numpy()
    means = [nearest[:, :count].mean(axis=1, dtype=np.float64) for count in fellows]
    medians = [max(float(np.median(mean)), TINY) for mean in means]
    return [np.maximum(mean / median, _LEAST_SCALE) for mean, median in zip(means, medians, strict=True)]


def k_means(points: DistinctRows, k: int, rounds: int, random: np.random.Generator) -> Float32Array:
    """Run Lloyd's algorithm for a few rounds from random rows.

    Parameters
    ----------
    points : DistinctRows
        N rows of D values, and the weight of each.
    k : int
        Number of centres, at most; with no more rows than that, the rows themselves are the centres.
    rounds : int
        How often the centres move.
    random : Generator
        Chooses the rows to start from.

    Returns
    -------
    centres : float32 array, shape [K, D]
        Each is the nearest to some row.
    """
    if len(points.rows) <= k:
        return points.rows
    rows, weights = torch.from_numpy(points.rows), torch.from_numpy(points.counts)
    weighted = rows * weights[:, None]
    centres = rows[torch.from_numpy(random.permutation(len(rows))[:k])].clone()
    for i in range(rounds + 1):
        squares = centres.square().sum(dim=1)
        nearest = torch.cat(
            [
                torch.addmm(squares, chunk, centres.T, alpha=-2).argmin(dim=1)
                for chunk in torch.split(rows, _CHUNK_ROWS)
            ]
        )
        counts = torch.zeros(k).index_add_(0, nearest, weights)
        if i < rounds:
            sums = torch.zeros_like(centres).index_add_(0, nearest, weighted)
            centres = torch.where(counts[:, None] > 0, sums / counts.clamp(min=1)[:, None], centres)
    return centres[counts > 0].numpy()
