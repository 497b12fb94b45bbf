import json

import numpy as np
import pytest

from datasentinel.producer import Summary
from datasentinel.producer.replies import Reply
from datasentinel.producer.samples import Fault, Sample
from datasentinel.producer.summary import LatencyHistogram

ROW = np.zeros(1, np.float32)


def sample(label: bool | None = None, fault: Fault | None = None) -> Sample:
    return Sample(0, ROW, label, fault)


def test_percentiles_are_within_a_bucket_of_the_exact_ones():
    durations = np.random.default_rng(0).lognormal(-8, 1.5, 20_000)
    histogram = LatencyHistogram()
    for duration in durations:
        histogram.add(duration)
    found = histogram.percentiles_us()
    for percent in (50, 90, 99):
        exact = np.quantile(durations, percent / 100, method="inverted_cdf") * 1e6
        assert exact * 0.999 <= found[f"p{percent}"] <= exact * 1.011
    assert found["max"] == round(durations.max() * 1e6, 1)


def test_extreme_durations_stay_in_range():
    histogram = LatencyHistogram()
    assert histogram.percentiles_us() == {}
    for duration in (0.0, 1e-9, 1e5):
        histogram.add(duration)
    assert histogram.count == 3
    assert histogram.percentiles_us()["max"] == 1e11


def test_agreement_with_labels():
    summary = Summary()
    for label, status, times in [
        (True, "ANOMALY", 3), (True, "OK", 1), (False, "ANOMALY", 2), (False, "OK", 14), (None, "OK", 5),
    ]:  # fmt: skip
        for _ in range(times):
            summary.add(sample(label), Reply(status), 1e-3)
    assert summary.agreement == {
        "labelled": 20,
        "true_positives": 3,
        "false_positives": 2,
        "true_negatives": 14,
        "false_negatives": 1,
        "accuracy": 17 / 20,
        "precision": 3 / 5,
        "recall": 3 / 4,
    }
    assert summary.ok


def test_ratios_of_nothing_are_none():
    summary = Summary()
    assert summary.agreement is None
    summary.add(sample(label=False), Reply("OK"), 1e-3)
    assert summary.agreement["precision"] is None
    assert summary.agreement["recall"] is None
    json.dumps(summary.as_dict(), allow_nan=False)


def test_refusals_are_right_for_invalid_samples_only():
    summary = Summary()
    summary.add(sample(fault=Fault.NAN), Reply("ERROR", "not finite"), 1e-3)
    assert summary.ok
    summary.add(sample(), Reply("ERROR", "expected 2 values, got 1"), 1e-3)
    assert not summary.ok
    assert summary.as_dict()["valid_refused"] == {"count": 1, "reasons": {"expected 2 values, got 1": 1}}


def test_an_invalid_sample_that_was_scored_is_a_failure():
    summary = Summary()
    summary.add(sample(fault=Fault.NAN), Reply("OK"), 1e-3)
    assert not summary.ok
    assert summary.as_dict()["invalid"] == {"refused": 0, "not_refused": 1}


@pytest.mark.parametrize(("interrupted", "ok"), [(False, False), (True, True)])
def test_unanswered_samples_are_a_failure_unless_the_run_was_stopped(interrupted, ok):
    summary = Summary()
    summary.unanswered = 1
    summary.interrupted = interrupted
    assert summary.ok is ok


def test_reasons_are_bounded():
    summary = Summary()
    for index in range(1000):
        summary.add(sample(), Reply("ERROR", f"reason {index}"), 1e-3)
    assert summary.valid_refused == 1000
    assert len(summary.reasons) <= 20
