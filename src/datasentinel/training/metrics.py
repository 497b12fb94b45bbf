"""Detection quality on labelled rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from datasentinel.errors import MissingDependencyError

if TYPE_CHECKING:
    from datasentinel.types import BoolArray, Float32Array


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
    """

    rows: int
    anomalies: int
    auroc: float
    average_precision: float
    precision: float
    recall: float
    f1: float
    false_positive_rate: float


def judge(scores: Float32Array, labels: BoolArray, threshold: float) -> Quality | None:
    """Compare scores [N] and labels [N]; None unless there are both normal rows and anomalies."""
    try:
        from sklearn.metrics import average_precision_score, roc_auc_score
    except ImportError as error:
        raise MissingDependencyError(
            'judging a detector needs scikit-learn: pip install "datasentinel[train]"'
        ) from error
    anomalies = int(np.count_nonzero(labels))
    if anomalies in (0, len(labels)):
        return None
    called = scores > threshold
    hits = int(np.count_nonzero(called & labels))
    false_alarms = int(np.count_nonzero(called & ~labels))
    precision = hits / (hits + false_alarms) if hits + false_alarms else 0.0
    recall = hits / anomalies
    return Quality(
        rows=len(labels),
        anomalies=anomalies,
        auroc=float(roc_auc_score(labels, scores)),
        average_precision=float(average_precision_score(labels, scores)),
        precision=precision,
        recall=recall,
        f1=2 * precision * recall / (precision + recall) if hits else 0.0,
        false_positive_rate=false_alarms / (len(labels) - anomalies),
    )
