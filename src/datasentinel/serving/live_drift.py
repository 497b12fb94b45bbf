"""How far live scores and columns have moved from the calibration rows, over a sliding window."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING

import numpy as np

from datasentinel.calibration import ScoreTable, feature_histograms
from datasentinel.drift import Shift, column_names, critical_value
from datasentinel.histogram import ks, psi

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from datasentinel.histogram import Histogram
    from datasentinel.serving.served_model import ServedModel
    from datasentinel.types import Int64Array

WINDOW_S = 3600.0
# Fewer rows make a PSI of 0.1 by chance.
MIN_ROWS = 500
_SNAPSHOTS_PER_WINDOW = 60


@dataclass(frozen=True)
class LiveShifts:
    """What the window shows.

    Attributes
    ----------
    score_rows, feature_rows : int
        Rows whose scores, and rows whose columns were counted; the columns' are a sample.
    score : Shift or None
        None for fewer than `MIN_ROWS` rows.
    features : tuple of Shift
        One a column; empty for fewer than `MIN_ROWS` sampled rows.
    """

    score_rows: int
    feature_rows: int
    score: Shift | None
    features: tuple[Shift, ...]

    @property
    def retrain(self) -> bool | None:
        """Whether the score or a column has drifted; None where there are too few rows to tell."""
        shifts = ((self.score,) if self.score else ()) + self.features
        return any(shift.state == "drifted" for shift in shifts) if shifts else None


class LiveDrift:
    """Compares about the last hour of scores and columns with the calibration rows.

    The core counts by interval; this keeps a few of its counts from the past, taken when somebody asks, so
    nothing runs in between. The window reaches back to the newest snapshot that is old enough, and to the
    first row of all before there is one.

    Parameters
    ----------
    score : Histogram
        The calibration scores.
    features : sequence of Histogram
        The columns of the calibration rows; empty where only scores are compared.
    names : sequence of str
        Of the columns; empty or repeated names are replaced by numbers.
    read_counts : callable
        Gives the counts of all live scores so far and those of each column, over the same bins; they start
        at 0.
    window_s : float
        Length of the window.
    clock : callable
        Seconds that never run backwards.

    Attributes
    ----------
    score_edges : ndarray
        Of the intervals in which scores are counted.
    """

    def __init__(
        self,
        score: Histogram,
        features: Sequence[Histogram] = (),
        names: Sequence[str] = (),
        *,
        read_counts: Callable[[], Sequence[Sequence[int]]],
        window_s: float = WINDOW_S,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self.score_edges = score.edges
        self._expected = [score.counts, *(feature.counts for feature in features)]
        self._names = column_names(names, len(features))
        self._read_counts = read_counts
        self._window_s = window_s
        self._clock = clock
        self._ends = np.cumsum([len(counts) for counts in self._expected])[:-1]
        zeros = np.zeros(sum(map(len, self._expected)), np.int64)
        self._snapshots: deque[tuple[float, Int64Array]] = deque([(clock(), zeros)])

    @classmethod
    def of_model(cls, model: ServedModel) -> LiveDrift | None:
        """Watch a model that is served; None for one whose artifact has no calibration scores."""
        config = model.detector.artifact.config
        table = ScoreTable.of_config(config)
        expected = table.histogram() if table else None
        if expected is None:
            return None
        return cls(
            expected,
            feature_histograms(config) if model.feature_counts else (),
            config.feature_names,
            read_counts=lambda: [model.score_counts, *model.feature_counts],
        )

    def measure(self) -> LiveShifts:
        """Compare what the window holds now."""
        score, *features = np.split(self._recent(), self._ends)
        score_rows = int(score.sum())
        feature_rows = int(features[0].sum()) if features else 0
        return LiveShifts(
            score_rows=score_rows,
            feature_rows=feature_rows,
            score=self._shift("score", self._expected[0], score) if score_rows >= MIN_ROWS else None,
            features=tuple(map(self._shift, self._names, self._expected[1:], features))
            if feature_rows >= MIN_ROWS
            else (),
        )

    def _shift(self, name: str, expected: Int64Array, actual: Int64Array) -> Shift:
        critical = critical_value(int(expected.sum()), int(actual.sum()), comparisons=len(self._expected))
        return Shift.judged(name, psi(expected, actual), ks(expected, actual), critical)

    def _recent(self) -> Int64Array:
        now = self._clock()
        counts = np.concatenate([np.array(c, dtype=np.int64) for c in self._read_counts()])
        snapshots = self._snapshots
        while len(snapshots) > 1 and snapshots[1][0] <= now - self._window_s:
            snapshots.popleft()
        recent: Int64Array = counts - snapshots[0][1]
        if now - snapshots[-1][0] >= self._window_s / _SNAPSHOTS_PER_WINDOW:
            snapshots.append((now, counts))
        return recent
