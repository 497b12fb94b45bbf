"""Alarms of a recording, grouped into events, and how often there are false ones."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from datasentinel.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from datasentinel.artifact import Json
    from datasentinel.types import BoolArray, Float32Array, Int64Array

_RULE = re.compile(r"(\d+)/(\d+)")


@dataclass(frozen=True)
class AlarmRule:
    """`wanted` anomalies among the last `of` rows raise an alarm, and fewer end it.

    Raises
    ------
    SettingsError
        Not 1 <= wanted <= of.
    """

    wanted: int = 1
    of: int = 1

    def __post_init__(self) -> None:
        """Check the numbers."""
        if not 1 <= self.wanted <= self.of:
            raise SettingsError(
                f"an alarm takes k of n rows with 1 <= k <= n, not {self.wanted} of {self.of}"
            )

    @classmethod
    def parse(cls, text: str) -> AlarmRule:
        """Read `k/n`."""
        match = _RULE.fullmatch(text.strip())
        if not match:
            raise SettingsError(f"alarm rows are told as k/n, such as 3/5, not '{text}'")
        return cls(int(match[1]), int(match[2]))


@dataclass(frozen=True)
class Event:
    """An alarm from its first anomaly to its last.

    Attributes
    ----------
    start, end : int
        First row, and the one after the last.
    peak : int
        The row with the greatest score.
    score : float
        That score.
    """

    start: int
    end: int
    peak: int
    score: float


def find_events(scores: Float32Array, anomalies: BoolArray, rule: AlarmRule | None = None) -> list[Event]:
    """Group the anomalies of a recording into events.

    Causal: whether there is an alarm at a row depends on rows up to it only.

    Parameters
    ----------
    scores : float32 array, shape [N]
    anomalies : bool array, shape [N]
        False while warming up.
    rule : AlarmRule, optional
        Every anomaly is an alarm without one.
    """
    rule = rule or AlarmRule()
    counts = np.concatenate([[0], np.cumsum(anomalies)])
    last = np.arange(1, len(anomalies) + 1)
    recent = counts[last] - counts[np.maximum(last - rule.of, 0)]
    where = np.flatnonzero(anomalies)
    events: list[Event] = []
    for first, end in runs(recent >= rule.wanted):
        # From the first anomaly that the alarm's first row saw, to the last one of the alarm.
        start = int(where[np.searchsorted(where, first - rule.of + 1)])
        stop = int(where[np.searchsorted(where, end) - 1]) + 1
        if events and start < events[-1].end:
            start = events.pop().start
        peak = start + int(np.argmax(scores[start:stop]))
        events.append(Event(start, stop, peak, float(scores[peak])))
    return events


def runs(flags: BoolArray) -> list[tuple[int, int]]:
    """Return [first, last + 1) of each run of true flags."""
    edges: Int64Array = np.diff(np.concatenate([[0], np.asarray(flags, np.int8), [0]]))
    return list(zip(np.flatnonzero(edges == 1).tolist(), np.flatnonzero(edges == -1).tolist(), strict=True))


@dataclass(frozen=True)
class EventQuality:
    """How events compare with labelled segments: runs of rows that are anomalies.

    Attributes
    ----------
    events, true_events : int
        Events, and those that meet a segment.
    segments, found : int
        Segments, and those that an event meets.
    """

    events: int
    true_events: int
    segments: int
    found: int

    @property
    def precision(self) -> float:
        """Share of events that meet a segment; 1 without events."""
        return self.true_events / self.events if self.events else 1.0

    @property
    def recall(self) -> float:
        """Share of segments that an event meets; 1 without segments."""
        return self.found / self.segments if self.segments else 1.0


def judge_events(events: Sequence[Event], labels: BoolArray) -> EventQuality:
    """Compare events with labels, bool [N]."""
    segments = runs(labels)
    inside = np.concatenate([[0], np.cumsum(labels)])
    alarmed = np.zeros(len(labels) + 1, np.int64)
    for event in events:
        alarmed[event.start + 1 : event.end + 1] += 1
    alarmed = np.cumsum(alarmed)
    return EventQuality(
        events=len(events),
        true_events=sum(bool(inside[event.end] > inside[event.start]) for event in events),
        segments=len(segments),
        found=sum(bool(alarmed[end] > alarmed[start]) for start, end in segments),
    )


@dataclass(frozen=True)
class FalseAlarms:
    """How often a threshold raises false alarms on a recording of normal rows.

    Attributes
    ----------
    rows : int
        Rows of the recording.
    above : int
        Rows above the threshold.
    events : int
        Runs of such rows.
    """

    rows: int
    above: int
    events: int

    @property
    def per_1000_rows(self) -> float:
        """Rows above the threshold in a thousand."""
        return 1000 * self.above / self.rows

    @property
    def rows_between(self) -> float:
        """Expected number of rows from one false alarm to the next, one more than seen being counted."""
        return self.rows / (self.events + 1)

    def facts(self) -> dict[str, Json]:
        """Return what `config.json` says under `calibration.false_alarms`."""
        return {
            "rows": self.rows,
            "per_1000_rows": float(f"{self.per_1000_rows:.4g}"),
            "events": self.events,
            "rows_between": float(f"{self.rows_between:.4g}"),
        }


def count_false_alarms(scores: Float32Array, threshold: float) -> FalseAlarms:
    """Count what a threshold does on the scores [N] of a recording of normal rows."""
    above = scores.astype(np.float64) > threshold
    return FalseAlarms(len(scores), int(above.sum()), len(runs(above)))


def independent_rows(scores: Float32Array, share: float) -> int:
    """Return how many independent scores would tell as much about a high quantile; at least 1.

    N / (1 + 2 sum of autocorrelations) of whether a score is above the quantile, summed as long as those of
    two neighbouring lags are positive together (C. Geyer, "Practical Markov chain Monte Carlo", 1992): high
    scores of a recording come in clusters.

    Parameters
    ----------
    scores : float32 array, shape [N]
        Of a recording.
    share : float
        Of the scores above the quantile.
    """
    count = len(scores)
    above = (scores > np.quantile(scores, 1 - share)).astype(np.float64)
    above -= above.mean()
    size = 1 << (2 * count - 1).bit_length()
    spectrum = np.fft.rfft(above, size)
    covariances = np.fft.irfft(spectrum * np.conj(spectrum), size)[:count]
    if not covariances[0] > 0:
        return 1
    pairs = covariances[: count // 2 * 2].reshape(-1, 2).sum(axis=1) / covariances[0]
    negative = np.flatnonzero(pairs <= 0)
    positive = pairs[: negative[0]] if negative.size else pairs
    return int(np.clip(count / max(2 * float(positive.sum()) - 1, 1.0), 1, count))
