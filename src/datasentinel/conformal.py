"""The rank of a conformal threshold, and what it promises; `calibration` says why it holds."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from datasentinel.types import Float64Array

# Room for the rounding in which backends differ, where there is no greater score to stay below.
_ROUNDING_ROOM = 1e-5


class OrderedScores(Protocol):
    """Scores in ascending order, wherever they are."""

    @property
    def rows(self) -> int:
        """How many there are."""

    def at(self, rank: int) -> float:
        """Return the one of a rank, from 1 on."""

    def at_most(self, score: float) -> int:
        """Return how many are no greater than a score."""


@dataclass(frozen=True, eq=False)
class SortedScores:
    """Ascending scores in memory.

    Attributes
    ----------
    values : float64 array, shape [N]
    """

    values: Float64Array

    @property
    def rows(self) -> int:
        """How many there are."""
        return len(self.values)

    def at(self, rank: int) -> float:
        """Return the one of a rank, from 1 on."""
        return float(self.values[rank - 1])

    def at_most(self, score: float) -> int:
        """Return how many are no greater than a score."""
        return int(np.searchsorted(self.values, score, side="right"))


def conformal_rank(rows: int, target_fpr: float, independent: int) -> tuple[int, float]:
    """Return the rank whose score is the threshold, and the false-positive rate that is promised above it.

    Parameters
    ----------
    rows : int
        Number of scores, N.
    target_fpr : float
    independent : int
        How many independent scores they stand for, at most N.
    """
    # Without the small deduction 0.99 * 100 rounds up to 100.
    k = min(math.ceil((independent + 1) * (1 - target_fpr) - 1e-9), independent)
    return math.ceil(k / independent * rows - 1e-9), promised_beyond(k, independent)


def promised_beyond(rank: float, independent: int) -> float:
    """Return the share of new scores expected beyond the one of a rank among so many independent ones."""
    return (independent + 1 - rank) / (independent + 1)


def conformal_quantile(ordered: OrderedScores, target_fpr: float, independent: int) -> tuple[float, float]:
    """Return a threshold and the false-positive rate that so many independent scores promise."""
    rows = ordered.rows
    rank, bound = conformal_rank(rows, target_fpr, independent)
    score = ordered.at(rank)
    # A score may be 0 or negative; its own size, or that of the others' spread, says what rounding is.
    rounding = _ROUNDING_ROOM * max(abs(score), ordered.at(rows) - ordered.at(1))
    no_greater = ordered.at_most(score)
    if no_greater < rows:
        # Half way to the next, but where that is a leap not much further than the scores have come.
        half_way = (ordered.at(no_greater + 1) - score) / 2
        median = (ordered.at((rows + 1) // 2) + ordered.at(rows // 2 + 1)) / 2
        return score + min(half_way, max(score - median, rounding)), bound
    return score + rounding, bound
