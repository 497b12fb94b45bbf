"""What came back: counts, agreement with labels, latencies. Memory does not grow with the stream."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

from datasentinel.producer.replies import ANOMALY, ERROR, OK, WARMING

if TYPE_CHECKING:
    from datasentinel.producer.replies import Reply
    from datasentinel.producer.samples import Sample

_GROWTH = math.log(1.01)  # each bucket of a histogram is 1 % wider than the one before
_FIRST_BUCKET_S = 1e-6
_BUCKETS = 2100  # up to some 1,200 s
_MAX_REASONS = 20


class LatencyHistogram:
    """Durations in buckets of 1 %, from a microsecond to twenty minutes."""

    def __init__(self) -> None:
        self._counts = [0] * _BUCKETS
        self._max_s = 0.0
        self.count = 0

    def add(self, duration_s: float) -> None:
        """Count one duration."""
        bucket = int(math.log(max(duration_s, _FIRST_BUCKET_S) / _FIRST_BUCKET_S) / _GROWTH)
        self._counts[min(bucket, _BUCKETS - 1)] += 1
        self._max_s = max(self._max_s, duration_s)
        self.count += 1

    def percentiles_us(self) -> dict[str, float]:
        """Return p50, p90, p99 (upper ends of their buckets) and the exact maximum in microseconds."""
        if not self.count:
            return {}
        cumulative = np.cumsum(self._counts)
        found = {}
        for percent in (50, 90, 99):
            bucket = int(np.searchsorted(cumulative, math.ceil(self.count * percent / 100)))
            found[f"p{percent}"] = min(_FIRST_BUCKET_S * math.exp((bucket + 1) * _GROWTH), self._max_s)
        return {name: round(seconds * 1e6, 1) for name, seconds in (found | {"max": self._max_s}).items()}


class Summary:
    """Counts of one run.

    Attributes
    ----------
    sent : int
        Samples sent, each counted once.
    resent : int
        Times that a sample was sent again because its reply was lost with the connection.
    reconnects : int
        Connections opened after the first.
    unanswered : int
        Samples without a reply when the run ended.
    interrupted : bool
        Whether the run was stopped before its end; samples may then be unanswered for that reason alone.
    failure : str
        Why the run ended early, or empty.
    latency : LatencyHistogram
        From a sample's intended start (with a rate) or its first sending (without) to its reply.
    send_delay : LatencyHistogram
        The part of it before the first sending; empty without a rate.
    """

    def __init__(self) -> None:
        self.sent = 0
        self.resent = 0
        self.reconnects = 0
        self.unanswered = 0
        self.interrupted = False
        self.failure = ""
        self.elapsed_s = 0.0
        self.replies = Counter({OK: 0, ANOMALY: 0, ERROR: 0})  # WARMING where a model has a memory.
        self.invalid_refused = 0
        self.invalid_not_refused = 0
        self.valid_refused = 0
        self.reasons: Counter[str] = Counter()
        self.latency = LatencyHistogram()
        self.send_delay = LatencyHistogram()
        self._decisions: Counter[tuple[bool, bool]] = Counter()  # (label, decided an anomaly)

    def add(self, sample: Sample, reply: Reply, latency_s: float) -> None:
        """Count one reply."""
        self.replies[reply.status] += 1
        self.latency.add(latency_s)
        refused = reply.status == ERROR
        if sample.fault is not None:
            self.invalid_refused += refused
            self.invalid_not_refused += not refused
        elif refused:
            self.valid_refused += 1
            # Reasons may quote values: without a bound, a long run would collect ever more of them.
            if reply.message in self.reasons or len(self.reasons) < _MAX_REASONS:
                self.reasons[reply.message] += 1
        elif sample.label is not None and reply.status != WARMING:
            self._decisions[sample.label, reply.status == ANOMALY] += 1

    @property
    def ok(self) -> bool:
        """Whether every sample was answered as it must be; decisions against labels do not count."""
        lost = self.unanswered and not self.interrupted
        return not (lost or self.failure or self.invalid_not_refused or self.valid_refused)

    @property
    def agreement(self) -> dict[str, Any] | None:
        """Decisions against labels: the four counts, accuracy, precision, recall; None without labels.

        A ratio of nothing (precision without a decided anomaly, recall without a labelled one) is None.
        """
        if not self._decisions:
            return None
        hits, misses = self._decisions[True, True], self._decisions[True, False]
        false_alarms, correct_normal = self._decisions[False, True], self._decisions[False, False]
        return {
            "labelled": self._decisions.total(),
            "true_positives": hits,
            "false_positives": false_alarms,
            "true_negatives": correct_normal,
            "false_negatives": misses,
            "accuracy": _ratio(hits + correct_normal, self._decisions.total()),
            "precision": _ratio(hits, hits + false_alarms),
            "recall": _ratio(hits, hits + misses),
        }

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain values, ready for JSON."""
        answered = sum(self.replies.values())
        return {
            "ok": self.ok,
            "sent": self.sent,
            "answered": answered,
            "unanswered": self.unanswered,
            "resent": self.resent,
            "reconnects": self.reconnects,
            "interrupted": self.interrupted,
            "failure": self.failure,
            "replies": dict(self.replies),
            "invalid": {"refused": self.invalid_refused, "not_refused": self.invalid_not_refused},
            "valid_refused": {"count": self.valid_refused, "reasons": dict(self.reasons.most_common())},
            "agreement": self.agreement,
            "latency_us": self.latency.percentiles_us(),
            "send_delay_us": self.send_delay.percentiles_us(),
            "elapsed_s": round(self.elapsed_s, 6),
            "throughput_per_s": round(answered / self.elapsed_s, 1) if self.elapsed_s > 0 else 0.0,
        }


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None
