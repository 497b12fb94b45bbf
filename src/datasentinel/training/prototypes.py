"""Prototypes: a few hundred points that stand for the training rows."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch  # noqa: TID251

if TYPE_CHECKING:
    from datasentinel.types import Float32Array

FINE, COARSE = 896, 64
_FINE_ROUNDS, _COARSE_ROUNDS = 4, 8
# A coarse prototype stands for at least this share of the rows: strays among the rows get none.
_LEAST_SHARE = 0.004
# What float32 leaves of a squared distance, as a share of the row's squared length.
RESOLUTION = 4e-7
TINY = 1e-12
# Columns.
_DIRECT_UP_TO = 8
_CHUNK_ROWS = 2048


@dataclass(frozen=True)
class Prototypes:
    """Points, float32 [P, D], and how many of the nearest ones a row is compared with."""

    centres: Float32Array
    neighbours: int

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
        """-2 C', shape [D, P]: the squared distance is |z|^2 + z `weight` + `bias`."""
        return np.ascontiguousarray(-2 * self.centres.T)

    @cached_property
    def bias(self) -> Float32Array:
        """|c|^2 of each prototype, shape [P]."""
        squares: Float32Array = np.square(self.centres.astype(np.float64)).sum(axis=1).astype(np.float32)
        return squares

    def distance(self, rows: Float32Array) -> Float32Array:
        """Mean distance of each row [N, D] to its nearest prototypes, shape [N]."""
        if self.is_direct:
            columns = zip(rows.T, self.centres.T, strict=True)
            differences = (np.square(x[:, None] - c) for x, c in columns)
            squares = self._smallest(functools.reduce(np.add, differences))
            least = np.full((1, 1), TINY, rows.dtype)
        else:
            length = np.square(rows).sum(axis=1, keepdims=True)
            squares = self._smallest(rows @ self.weight + self.bias) + length
            least = RESOLUTION * length + TINY
        mean: Float32Array = np.sqrt(np.maximum(squares, least)).mean(axis=1)
        return mean

    def _smallest(self, values: Float32Array) -> Float32Array:
        part: Float32Array = np.partition(values, self.neighbours - 1, axis=1)[:, : self.neighbours]
        return part


def fit_fine(rows: Float32Array, random: np.random.Generator) -> Prototypes:
    """Learn many prototypes: all rows of a small set, k-means centres of a large one."""
    centres, _ = k_means(rows, FINE, _FINE_ROUNDS, random)
    return Prototypes(centres, min(3, len(centres)))


def fit_coarse(rows: Float32Array, random: np.random.Generator) -> Prototypes:
    """Learn few prototypes, each for many rows, so that a contaminating row does not vouch for itself."""
    centres, counts = k_means(rows, min(COARSE, max(8, len(rows) // 8)), _COARSE_ROUNDS, random)
    kept = counts >= min(_LEAST_SHARE * len(rows), counts.max())
    return Prototypes(centres[kept], 1)


def k_means(
    rows: Float32Array, k: int, rounds: int, random: np.random.Generator
) -> tuple[Float32Array, Float32Array]:
    """Run Lloyd's algorithm for a few rounds from random rows.

    Parameters
    ----------
    rows : float32 array, shape [N, D]
    k : int
        Number of centres, at most; with no more rows than that, the rows themselves are the centres.
    rounds : int
        How often the centres move.
    random : Generator
        Chooses the rows to start from.

    Returns
    -------
    centres : float32 array, shape [K, D]
    counts : float32 array, shape [K]
        Rows nearest to each; none is 0.
    """
    if len(rows) <= k:
        return rows.copy(), np.ones(len(rows), np.float32)
    points = torch.from_numpy(rows)
    centres = points[torch.from_numpy(random.permutation(len(rows))[:k])].clone()
    for i in range(rounds + 1):
        squares = centres.square().sum(dim=1)
        nearest = torch.cat(
            [
                torch.addmm(squares, chunk, centres.T, alpha=-2).argmin(dim=1)
                for chunk in torch.split(points, _CHUNK_ROWS)
            ]
        )
        counts = torch.bincount(nearest, minlength=k).float()
        if i < rounds:
            sums = torch.zeros_like(centres).index_add_(0, nearest, points)
            centres = torch.where(counts[:, None] > 0, sums / counts.clamp(min=1)[:, None], centres)
    kept = counts > 0
    return centres[kept].numpy(), counts[kept].numpy()
