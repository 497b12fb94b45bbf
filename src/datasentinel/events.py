"""Alarms of a recording, grouped into events, and how often there are false ones."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from datasentinel.errors import SettingsError
from datasentinel.quality import hit_segments, runs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from datasentinel.artifact import Json
    from datasentinel.types import BoolArray, Float32Array

# Logarithms of smaller ones mean nothing.
_LEAST_SEVERITY = 1e-30
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
            raise SettingsError(f"alarm rows are written k/n, such as 3/5, not '{text}'")
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
    for first, end in zip(*runs(recent >= rule.wanted), strict=True):
        # From the first anomaly that the alarm's first row saw, to the last one of the alarm.
        start = int(where[np.searchsorted(where, first - rule.of + 1)])
        stop = int(where[np.searchsorted(where, end) - 1]) + 1
        if events and start < events[-1].end:
            start = events.pop().start
        peak = start + int(np.argmax(scores[start:stop]))
        events.append(Event(start, stop, peak, float(scores[peak])))
    return events


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
    alarmed = np.zeros(len(labels), np.bool_)
    for event in events:
        alarmed[event.start : event.end] = True
    segments = hit_segments(alarmed, labels)
    return EventQuality(
        events=len(events),
        true_events=sum(bool(np.any(labels[event.start : event.end])) for event in events),
        segments=segments.count,
        found=segments.hit,
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
    expected : float or None
        Share of rows that is expected above the threshold next, what drifted within the recording being
        expected to go on drifting; None where it is unknown.
    row_s : float or None
        Seconds from one row to the next, where that is known.
    """

    rows: int
    above: int
    events: int
    expected: float | None = None
    row_s: float | None = None

    @property
    def per_1000_rows(self) -> float:
        """Rows above the threshold in a thousand: expected ones, or those seen."""
        return 1000 * (self.above / self.rows if self.expected is None else self.expected)

    @property
    def rows_an_event(self) -> float:
        """Rows above the threshold in an alarm; 1 where none was seen."""
        return self.above / self.events if self.events else 1.0

    @property
    def rows_between(self) -> float:
        """Expected number of rows from one false alarm to the next.

        Of the rows above the threshold as many make an alarm as did in the recording. Where the expected
        share is unknown, one alarm more than seen is counted.
        """
        if self.expected:
            return self.rows_an_event / self.expected
        return self.rows / (self.events + 1)

    def __str__(self) -> str:
        """Return a description in words."""
        between = f"{self.rows_between:.0f} rows"
        if self.row_s:
            per_hour = 3600 / self.row_s / self.rows_between
            between += f" ({_duration(self.rows_between * self.row_s)}; {per_hour:.2g} an hour)"
        how = "seen" if self.expected is None else "expected"
        return f"{self.per_1000_rows:.3g} rows in 1,000 {how} above it, one false alarm in {between}"

    def facts(self) -> dict[str, Json]:
        """Return what `config.json` says under `calibration.false_alarms`."""
        facts: dict[str, Json] = {
            "rows": self.rows,
            "above": self.above,
            "events": self.events,
            "per_1000_rows": _rounded(self.per_1000_rows),
            "rows_between": _rounded(self.rows_between),
        }
        if self.row_s:
            facts["row_s"] = _rounded(self.row_s)
            facts["events_per_hour"] = _rounded(3600 / self.row_s / self.rows_between)
        return facts


def count_false_alarms(
    scores: Float32Array, threshold: float, *, expected: float | None = None, row_s: float | None = None
) -> FalseAlarms:
    """Count what a threshold does on the scores [N] of a recording of normal rows; see `FalseAlarms`."""
    above = scores.astype(np.float64) > threshold
    return FalseAlarms(len(scores), int(above.sum()), len(runs(above)[0]), expected, row_s)


class AlarmBudget:
    """A threshold that rises while more than a share of the rows is above it, and comes back afterwards.

    Adaptive conformal inference (I. Gibbs, E. Candès, "Adaptive conformal inference under distribution
    shift", NeurIPS 2021) on the logarithm of the threshold: a row above it adds gain (1 - share), any other
    takes gain share away, down to the calibrated threshold. So whatever the scores, however they drift, of N
    rows at most share N + 1 + ln(greatest severity) / gain are above it. A lasting change raises an alarm and
    becomes the new normal; the scores themselves stay as they are.

    Parameters
    ----------
    threshold : float
        The calibrated one, greater than 0.
    share : float
        The share of rows that may be above the threshold in the long run.
    gain : float
        How quickly it adapts: by default 35 rows above it double it.

    Raises
    ------
    SettingsError
        The share is not between 0 and 1, or the gain or the threshold is not above 0.
    """

    def __init__(self, threshold: float, share: float, gain: float = 0.02) -> None:
        if not 0 < share < 1:
            raise SettingsError(f"an alarm budget is a share of rows between 0 and 1, not {share:g}")
        if not gain > 0:
            raise SettingsError(f"the gain of an alarm budget must be greater than 0, got {gain:g}")
        if not threshold > 0:
            raise SettingsError(f"an alarm budget needs a threshold above 0, not {threshold:g}")
        self._threshold = threshold
        self._up, self._down = gain * (1 - share), gain * share
        self._level = 0.0

    @property
    def threshold(self) -> float:
        """What the next score is compared with."""
        return self._threshold * math.exp(self._level)

    def decide(self, scores: Float32Array) -> BoolArray:
        """Return which of the next scores [N] of a stream are anomalies."""
        severities = np.log(np.maximum(scores.astype(np.float64) / self._threshold, _LEAST_SEVERITY)).tolist()
        anomalies = np.empty(len(scores), bool)
        level = self._level
        for i, severity in enumerate(severities):
            anomalies[i] = above = severity > level
            level = level + self._up if above else max(0.0, level - self._down)
        self._level = level
        return anomalies


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")


def _duration(seconds: float) -> str:
    for unit, size in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"
