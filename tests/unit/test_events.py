from __future__ import annotations

import numpy as np
import pytest

from datasentinel.calibration import calibrate
from datasentinel.errors import SettingsError
from datasentinel.events import AlarmRule, count_false_alarms, find_events, judge_events


def flags(text):
    return np.array([letter == "x" for letter in text])


def spans(text, rule):
    anomalies = flags(text)
    return [(event.start, event.end) for event in find_events(anomalies.astype(np.float32), anomalies, rule)]


@pytest.mark.parametrize(
    ("text", "rule", "expected"),
    [
        ("..xx..x", None, [(2, 4), (6, 7)]),
        ("..xx..x", AlarmRule(2, 3), [(2, 4)]),
        ("x.x.x....x", AlarmRule(2, 3), [(0, 5)]),
        ("x..x..x", AlarmRule(2, 3), []),
        ("xxx", AlarmRule(3, 3), [(0, 3)]),
        ("", AlarmRule(2, 3), []),
    ],
)
def test_anomalies_are_grouped(text, rule, expected):
    assert spans(text, rule) == expected


def test_an_event_is_not_changed_by_what_follows_but_for_its_end():
    anomalies = np.random.default_rng(0).random(500) < 0.2
    scores = np.random.default_rng(1).random(500).astype(np.float32)
    rule = AlarmRule(3, 5)
    for cut in (100, 250, 333):
        before = find_events(scores[:cut], anomalies[:cut], rule)
        after = find_events(scores, anomalies, rule)
        assert before[:-1] == after[: len(before) - 1]


def test_the_peak_is_the_greatest_score():
    (event,) = find_events(np.array([0, 2, 5, 3], np.float32), flags(".xxx"))
    assert (event.peak, event.score) == (2, 5.0)


def test_events_are_judged_by_the_segments_they_meet():
    labels = flags("..xxx....xx...")
    events = find_events(np.zeros(14, np.float32), flags("...xx.x......."))
    quality = judge_events(events, labels)
    assert (quality.events, quality.true_events, quality.segments, quality.found) == (2, 1, 2, 1)
    assert (quality.precision, quality.recall) == (0.5, 0.5)


@pytest.mark.parametrize("text", ["3", "4/3", "0/2", "a/b"])
def test_a_rule_that_makes_no_sense_is_refused(text):
    with pytest.raises(SettingsError):
        AlarmRule.parse(text)


def test_a_recording_with_few_independent_scores_promises_less():
    scores = np.repeat(np.exp(np.random.default_rng(0).normal(size=50)), 40).astype(np.float32)
    rows = calibrate(scores, method="conformal", target_fpr=0.01)
    recording = calibrate(scores, method="conformal", target_fpr=0.01, recording=True, has_memory=True)
    assert rows.fpr_bound < 0.01 < recording.fpr_bound
    assert recording.threshold >= rows.threshold
    told = recording.facts()["false_alarms"]
    assert (told["rows"], told["above"], told["events"]) == (2000, 0, 0)
    assert 0 < told["per_1000_rows"] <= 10
    assert told["rows_between"] >= 100


def test_false_alarms_are_counted_in_rows_and_in_alarms():
    alarms = count_false_alarms(np.array([0, 9, 9, 0, 0, 9, 0, 0], np.float32), 5.0)
    assert (alarms.above, alarms.events, alarms.per_1000_rows) == (3, 2, 375.0)
    assert alarms.rows_between == pytest.approx(8 / 3)
    assert "events_per_hour" not in alarms.facts()


def test_false_alarms_are_told_by_the_hour_where_the_rows_have_times():
    scores = np.array([0, 9, 9, 0, 0, 9, 0, 0], np.float32)
    alarms = count_false_alarms(scores, 5.0, expected=0.01, row_s=30.0)
    assert alarms.rows_between == pytest.approx(150)  # 1.5 rows an alarm, 10 rows in 1,000.
    assert alarms.facts()["events_per_hour"] == 0.8
    assert str(alarms) == (
        "10 rows in 1,000 expected above it, one false alarm in 150 rows (75 minutes; 0.8 an hour)"
    )
