from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics

from datasentinel.quality import hit_segments, judge


@pytest.mark.parametrize("decimals", [0, 1, 9])
def test_quality_is_scikit_learn_s(decimals):
    random = np.random.default_rng(decimals)
    labels = random.random(2000) < 0.1
    scores = np.round(random.normal(size=2000) + labels, decimals).astype(np.float32)
    quality = judge(scores, labels, 1.5)
    called = scores > 1.5
    assert quality.auroc == pytest.approx(metrics.roc_auc_score(labels, scores), abs=1e-12)
    assert quality.average_precision == pytest.approx(
        metrics.average_precision_score(labels, scores), abs=1e-12
    )
    assert quality.precision == pytest.approx(metrics.precision_score(labels, called))
    assert quality.recall == pytest.approx(metrics.recall_score(labels, called))
    assert quality.f1 == pytest.approx(metrics.f1_score(labels, called))
    confusion = [
        [quality.true_negatives, quality.false_positives],
        [quality.false_negatives, quality.true_positives],
    ]
    np.testing.assert_array_equal(confusion, metrics.confusion_matrix(labels, called))
    assert quality.false_positive_rate == quality.false_positives / np.count_nonzero(~labels)


def test_labels_of_one_kind_cannot_be_judged():
    assert judge(np.ones(3, np.float32), np.zeros(3, bool), 0.0) is None
    assert judge(np.ones(3, np.float32), np.ones(3, bool), 0.0) is None


def test_a_detector_that_never_calls():
    quality = judge(np.arange(4, dtype=np.float32), np.array([False, True, False, True]), 9.0)
    assert (quality.precision, quality.recall, quality.f1) == (0, 0, 0)


@pytest.mark.parametrize(
    ("labels", "called", "count", "hit"),
    [
        ("0110010", "0010000", 2, 1),
        ("1100011", "1000001", 2, 2),
        ("1111111", "0000000", 1, 0),
        ("0000000", "1111111", 0, 0),
        ("1010101", "0101010", 4, 0),
    ],
)
def test_segments_are_runs_of_anomalies(labels, called, count, hit):
    segments = hit_segments(np.array([c == "1" for c in called]), np.array([c == "1" for c in labels]))
    assert (segments.count, segments.hit) == (count, hit)
    if count:
        assert segments.recall == hit / count
