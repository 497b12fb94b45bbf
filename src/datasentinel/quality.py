"""Detection quality on labelled rows, with NumPy alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from datasentinel.types import BoolArray, Float32Array, Int64Array


@dataclass(frozen=True)
class Quality:
    """Quality of scores against labels; shares between 0 and 1.

    Attributes
    ----------
    rows, anomalies : int
        How many rows were judged, and how many of them are anomalies.
    auroc, average_precision : float
        Of the scores, whatever the threshold.
    precision, recall, f1, false_positive_rate : float
        Of the decisions at the threshold.
    true_positives, false_positives, true_negatives, false_negatives : int
        The decisions at the threshold, counted.
    """

    rows: int
    anomalies: int
    auroc: float
    average_precision: float
    precision: float
    recall: float
    f1: float
    false_positive_rate: float
    true_positives: int
    false_positives: int
    true_negatives: int
    false_negatives: int


@dataclass(frozen=True)
class Segments:
    """Runs of consecutive anomalies, and how many of them hold at least one detected row."""

    count: int
    hit: int

    @property
    def recall(self) -> float:
        """Share of the runs that were hit."""
        return self.hit / self.count


@dataclass(frozen=True, eq=False)
class Sweep:
    """Detections as the threshold falls from the greatest score to the least.

    Attributes
    ----------
    hits, false_alarms : int64 array, shape [T]
        Anomalies and normal rows scoring at least as much as the threshold, for every distinct score.
    """

    hits: Int64Array
    false_alarms: Int64Array


def sweep(scores: Float32Array, labels: BoolArray) -> Sweep:
    """Count detections [T] for every distinct score as threshold, given scores [N] and labels [N]."""
    order = np.argsort(-scores.astype(np.float64), kind="stable")
    last_of_ties = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    hits = np.cumsum(labels[order], dtype=np.int64)[last_of_ties]
    return Sweep(hits, last_of_ties + 1 - hits)


def judge(scores: Float32Array, labels: BoolArray, threshold: float) -> Quality | None:
    """Compare scores [N] and labels [N]; None unless there are both normal rows and anomalies.

    AUROC is the area under the straight lines between the points of the ROC curve, so that ties count half;
    average precision is the sum of precision times gain of recall over the distinct scores, not interpolated.
    """
    anomalies = int(np.count_nonzero(labels))
    normal = len(labels) - anomalies
    if not anomalies or not normal:
        return None
    curve = sweep(scores, labels)
    hit_rates = np.append(0, curve.hits) / anomalies
    false_alarm_rates = np.append(0, curve.false_alarms) / normal
    precisions = curve.hits / (curve.hits + curve.false_alarms)
    called = scores.astype(np.float64) > threshold
    hits = int(np.count_nonzero(called & labels))
    false_alarms = int(np.count_nonzero(called & ~labels))
    precision = hits / (hits + false_alarms) if hits + false_alarms else 0.0
    recall = hits / anomalies
    return Quality(
        rows=len(labels),
        anomalies=anomalies,
        auroc=float(np.sum(np.diff(false_alarm_rates) * (hit_rates[1:] + hit_rates[:-1]) / 2)),
        average_precision=float(np.sum(np.diff(hit_rates) * precisions)),
        precision=precision,
        recall=recall,
        f1=2 * precision * recall / (precision + recall) if hits else 0.0,
        false_positive_rate=false_alarms / normal,
        true_positives=hits,
        false_positives=false_alarms,
        true_negatives=normal - false_alarms,
        false_negatives=anomalies - hits,
    )


def runs(flags: BoolArray) -> tuple[Int64Array, Int64Array]:
    """Return where the runs of true `flags` [N] start, and where they end, exclusively."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8)))
    return edges[::2], edges[1::2]


def hit_segments(called: BoolArray, labels: BoolArray) -> Segments:
    """Count the runs of true `labels` [N], rows in order of time, and those with a row `called` [N]."""
    starts, ends = runs(labels)
    called_before = np.concatenate([[0], np.cumsum(called)])
    return Segments(len(starts), int(np.count_nonzero(called_before[ends] > called_before[starts])))
