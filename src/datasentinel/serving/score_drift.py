"""How far live scores have moved from the calibration scores, over a sliding window."""

from __future__ import annotations

from collections import deque
from time import monotonic
from typing import TYPE_CHECKING

import numpy as np

from datasentinel.histogram import psi

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from datasentinel.histogram import Histogram
    from datasentinel.types import Int64Array

WINDOW_S = 3600.0
# Fewer rows make a PSI of 0.1 by chance.
MIN_ROWS = 500
_SNAPSHOTS_PER_WINDOW = 60


class ScoreDrift:
    """Compares the scores of about the last hour with the calibration scores.

    The core counts scores by interval; this keeps a few of its counts from the past, taken when somebody
    asks, so nothing runs in between. The window reaches back to the newest snapshot that is old enough, and
    to the first score of all before there is one.

    Parameters
    ----------
    expected : Histogram
        The calibration scores.
    read_counts : callable
        Gives the counts of all live scores so far, over the same bins; they start at 0.
    window_s : float
        Length of the window.
    clock : callable
        Seconds that never run backwards.
    """

    def __init__(
        self,
        expected: Histogram,
        read_counts: Callable[[], Sequence[int]],
        *,
        window_s: float = WINDOW_S,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._expected = expected.counts
        self._read_counts = read_counts
        self._window_s = window_s
        self._clock = clock
        self._snapshots: deque[tuple[float, Int64Array]] = deque([(clock(), np.zeros_like(self._expected))])

    def measure(self) -> tuple[int, float | None]:
        """Return the number of rows in the window and their PSI, None for fewer than `MIN_ROWS` rows."""
        now, counts = self._clock(), self._counts()
        snapshots = self._snapshots
        while len(snapshots) > 1 and snapshots[1][0] <= now - self._window_s:
            snapshots.popleft()
        recent = counts - snapshots[0][1]
        if now - snapshots[-1][0] >= self._window_s / _SNAPSHOTS_PER_WINDOW:
            snapshots.append((now, counts))
        rows = int(recent.sum())
        return rows, psi(self._expected, recent) if rows >= MIN_ROWS else None

    def _counts(self) -> Int64Array:
        return np.array(self._read_counts(), dtype=np.int64)
