"""Order statistics of more scores than a machine holds: counts that are made in parts and add up.

Scores are float32, of which there are 2^32 and which have an order. A first pass counts them by intervals of
2^12 neighbouring numbers: a relative width of 2^-11, and a few ten thousand intervals in practice, whatever
the number of scores. A second pass counts the numbers themselves in the few intervals where a rank is to be
exact. Counts of parts add up to those of the whole, in any order, and those of rows to leave out can be taken
away. So the threshold is the very one that `datasentinel.calibration.calibrate` finds among all scores, and
p-values are raised by no more than 4 %: by 2 % where an interval stands for its scores, and by 2 % where
`ScoreTable` leaves some out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from datasentinel.calibration import (
    EXACT_RANKS,
    Calibration,
    ScoreTable,
    require_finite,
)
from datasentinel.conformal import conformal_quantile, conformal_rank
from datasentinel.errors import DataError
from datasentinel.histogram import Histogram

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy.typing as npt

    from datasentinel.types import Float32Array, Int64Array

    Keys = npt.NDArray[np.uint32]

# Of a key's 32 bits, so many distinguish the numbers within an interval.
FINE_BITS = 12
_SIGN = np.uint32(1 << 31)
# By how much an interval that stands for its scores may raise a p-value.
_RAISED = 1.02


def keys_of(scores: Float32Array) -> Keys:
    """Return whole numbers [N] in the order of finite scores [N]."""
    bits = (scores + np.float32(0)).view(np.uint32)  # -0 is 0.
    return np.where(bits & _SIGN, ~bits, bits | _SIGN)


def scores_of(keys: Keys) -> Float32Array:
    """Return the scores [N] that `keys_of` made keys of."""
    return np.where(keys & _SIGN, keys ^ _SIGN, ~keys).view(np.float32)


@dataclass(frozen=True, eq=False)
class ScoreCounts:
    """How many scores there are in each interval, or of each number.

    Attributes
    ----------
    keys : uint32 array, shape [K]
        Strictly ascending; of intervals, a key without its last `FINE_BITS` bits.
    counts : int64 array, shape [K]
        At least 1.
    """

    keys: Keys
    counts: Int64Array

    @classmethod
    def coarse(cls, scores: Float32Array) -> ScoreCounts:
        """Count scores [N] by intervals."""
        return cls._of((keys_of(scores) >> FINE_BITS).astype(np.uint32))

    @classmethod
    def fine(cls, scores: Float32Array, intervals: Keys) -> ScoreCounts:
        """Count the scores of [N] that lie in some intervals, by number."""
        keys = keys_of(scores)
        return cls._of(keys[np.isin(keys >> FINE_BITS, intervals)])

    @classmethod
    def _of(cls, keys: Keys) -> ScoreCounts:
        unique, counts = np.unique(keys, return_counts=True)
        return cls(unique, counts.astype(np.int64))

    @classmethod
    def total(cls, parts: Iterable[ScoreCounts]) -> ScoreCounts:
        """Add counts up, in any order."""
        whole = cls(np.empty(0, np.uint32), np.empty(0, np.int64))
        for part in parts:
            keys, places = np.unique(np.concatenate([whole.keys, part.keys]), return_inverse=True)
            counts = np.zeros(len(keys), np.int64)
            np.add.at(counts, places, np.concatenate([whole.counts, part.counts]))
            whole = cls(keys, counts)
        return whole

    def without(self, part: ScoreCounts) -> ScoreCounts:
        """Take away what was counted among these.

        Raises
        ------
        DataError
            It was not.
        """
        left = self.total([self, ScoreCounts(part.keys, -part.counts)])
        if (left.counts < 0).any():
            raise DataError(
                "rows to leave out are not among those counted, or score otherwise there: give the rows that "
                "the sample was drawn from, and the same backend"
            )
        return ScoreCounts(left.keys[left.counts > 0], left.counts[left.counts > 0])

    @property
    def rows(self) -> int:
        """How many scores there are."""
        return int(self.counts.sum())


@dataclass(frozen=True, eq=False)
class CountedScores:
    """All scores in ascending order: by number in some intervals, and as their greatest number in others.

    Attributes
    ----------
    keys : uint32 array, shape [K]
    upto : int64 array, shape [K]
        How many scores are no greater.
    """

    keys: Keys
    upto: Int64Array

    @classmethod
    def of(cls, coarse: ScoreCounts, fine: ScoreCounts) -> CountedScores:
        """Put numbers in the place of their intervals."""
        rest = ~np.isin(coarse.keys, fine.keys >> FINE_BITS)
        ends = (coarse.keys[rest] << FINE_BITS) | np.uint32((1 << FINE_BITS) - 1)
        keys, counts = np.concatenate([ends, fine.keys]), np.concatenate([coarse.counts[rest], fine.counts])
        order = np.argsort(keys)
        return cls(keys[order], np.cumsum(counts[order]))

    @property
    def rows(self) -> int:
        """How many there are."""
        return int(self.upto[-1])

    def at(self, rank: int) -> float:
        """Return the one of a rank, from 1 on."""
        return float(scores_of(self.keys[np.searchsorted(self.upto, rank)][np.newaxis])[0])

    def at_most(self, score: float) -> int:
        """Return how many are no greater than a score."""
        places = np.searchsorted(scores_of(self.keys).astype(np.float64), score, side="right")
        return int(self.upto[places - 1]) if places else 0

    def table(self) -> ScoreTable:
        """Return what p-values are taken from."""
        return ScoreTable.of_counts(scores_of(self.keys), np.diff(self.upto, prepend=0))


def intervals_to_count(coarse: ScoreCounts, target_fpr: float) -> Keys:
    """Return the intervals whose numbers a conformal threshold and p-values depend on.

    Raises
    ------
    DataError
        There are no scores.
    """
    rows = coarse.rows
    if not rows:
        raise DataError("there are no rows to calibrate on")
    upto = np.cumsum(coarse.counts)
    rank, _ = conformal_rank(rows, target_fpr, rows)
    places = np.searchsorted(upto, [1, (rows + 1) // 2, rows // 2 + 1, rank, rows])
    # The next greater score may lie in the same interval or in the one that follows.
    wanted = np.append(places, min(int(places[3]) + 1, len(upto) - 1))
    greater = rows - upto
    sparse = (greater < EXACT_RANKS) | (coarse.counts > (_RAISED - 1) * (1 + greater))
    chosen: Keys = coarse.keys[np.union1d(wanted, np.flatnonzero(sparse))]
    return chosen


def require_same_rows(coarse: ScoreCounts, fine: ScoreCounts, intervals: Keys) -> None:
    """Check that both passes counted the same scores.

    Parameters
    ----------
    coarse : ScoreCounts
        Of all rows, by intervals.
    fine : ScoreCounts
        Of the same rows, by number, in `intervals`, which are among those of `coarse`.
    intervals : uint32 array, shape [K]
        Strictly ascending.

    Raises
    ------
    DataError
        They did not.
    """
    found = ScoreCounts.total([ScoreCounts((fine.keys >> FINE_BITS).astype(np.uint32), fine.counts)])
    among = np.isin(coarse.keys, intervals)
    if not (
        np.array_equal(found.keys, coarse.keys[among]) and np.array_equal(found.counts, coarse.counts[among])
    ):
        raise DataError(
            f"the data changed between the two passes over it, or its scores did: {fine.rows} scores lie "
            f"where {int(coarse.counts[among].sum())} were counted before; calibrate on data that stays as "
            "it is, with one backend"
        )


def calibrate_counts(
    coarse: ScoreCounts, fine: ScoreCounts, *, target_fpr: float, rows: Float32Array | None = None
) -> Calibration:
    """Choose a threshold as `datasentinel.calibration.calibrate` does by the method "conformal".

    Parameters
    ----------
    coarse : ScoreCounts
        Of all normal rows that the model was not trained on, by intervals.
    fine : ScoreCounts
        Of the same rows, by number, in the intervals that `intervals_to_count` names.
    target_fpr : float
    rows : float32 array, shape [M, D], optional
        Some normal rows, to remember how each column is distributed.

    Raises
    ------
    DataError
        There is no score, or one is not finite or overflowed.
    """
    scores = CountedScores.of(coarse, fine)
    require_finite(scores_of(scores.keys), np.diff(scores.upto, prepend=0))
    threshold, fpr_bound = conformal_quantile(scores, target_fpr, scores.rows)
    return Calibration(
        threshold=threshold,
        method="conformal",
        target_fpr=target_fpr,
        fpr_bound=fpr_bound,
        table=scores.table(),
        features=() if rows is None else tuple(Histogram.of_deciles(column) for column in rows.T),
    )
