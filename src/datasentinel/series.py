"""Series of a table's rows: when each was taken, and which are anomalies."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from datasentinel.errors import DataError
from datasentinel.events import AlarmBudget
from datasentinel.streams import MAX_STREAMS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from datasentinel.detector import Detector
    from datasentinel.types import BoolArray, Float32Array, Float64Array


def require_times(detector: Detector, *, are_there: bool) -> None:
    """Refuse rows without times for a model whose half-lives count time.

    Raises
    ------
    DataError
        It does, and they have none.
    """
    if detector.artifact.config.row_s is not None and not are_there:
        raise DataError("the model's half-lives are times: name the column of times with --time")


def known_times(times_s: Float64Array) -> list[float | None]:
    """Return times in seconds, shape [N], with None for those that are not known."""
    return [time_s if np.isfinite(time_s) else None for time_s in times_s.tolist()]


class Chronology:
    """Counts the rows that are earlier than the one before them in their stream.

    Attributes
    ----------
    earlier_rows : int
        A model with memory takes them in the order given, so their scores are of what came later.
    """

    def __init__(self) -> None:
        self.earlier_rows = 0
        self._latest: dict[str, float] = {}

    def follow(self, streams: Sequence[str], times_s: Sequence[float | None]) -> None:
        """Count among the next rows; None is a time that is not known."""
        latest = self._latest
        if len(latest) > MAX_STREAMS:
            latest.clear()  # The model does not remember as many either.
        for stream, time_s in zip(streams, times_s, strict=True):
            if time_s is not None:
                self.earlier_rows += time_s < latest.get(stream, time_s)
                latest[stream] = time_s

    @property
    def problem(self) -> str:
        """What is to be said of such rows; empty where there are none."""
        if not self.earlier_rows:
            return ""
        return (
            f"{self.earlier_rows} rows are earlier than the one before them in their series: the model "
            "judges rows by those before them, so put each series in order of time"
        )


class Alarms:
    """Calls anomalies by a model's threshold, or by one that adapts to each stream.

    Parameters
    ----------
    threshold : float
    budget : float or None
        The share of `datasentinel.events.AlarmBudget`.
    """

    def __init__(self, threshold: float, budget: float | None) -> None:
        self._threshold = threshold
        self._budget = budget
        self._adapting: dict[str, AlarmBudget] = {}

    def decide(self, scores: Float32Array, warming: BoolArray, streams: Sequence[str]) -> BoolArray:
        """Return which of the next rows are anomalies; rows that warm up never are."""
        if self._budget is None:
            return (scores.astype(np.float64) > self._threshold) & ~warming
        told: dict[str, list[int]] = {}
        for row in np.flatnonzero(~warming).tolist():
            told.setdefault(streams[row], []).append(row)
        anomalies = np.zeros(len(scores), bool)
        for stream, rows in told.items():
            if stream not in self._adapting:
                self._adapting[stream] = AlarmBudget(self._threshold, self._budget)
            anomalies[rows] = self._adapting[stream].decide(scores[rows])
        return anomalies
