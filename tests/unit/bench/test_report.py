"""Reports survive their JSON file, and files that are none are refused."""

from __future__ import annotations

import json

import pytest

from datasentinel.bench.report import load_report, median_share_of_peak, median_speedup, save_report
from datasentinel.errors import DataError
from tests.unit.bench.reports import measurement, report


def test_json_round_trip(tmp_path):
    whole = report(
        measurement([1.5, 2.5, 3.0]),
        measurement([0.1, 0.2, 0.3], contender="auto", batch=64),
        left_out=[{"model": "m", "level": "python", "contender": "x", "batch": 8, "reason": "not installed"}],
        contenders={"python fused": "Detector.score"},
    )
    path = tmp_path / "folder" / "report.json"
    save_report(whole, path)
    assert load_report(path) == whole


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda document: document | {"format_version": 99}, "format_version 1"),
        (lambda document: {key: value for key, value in document.items() if key != "measurements"}, "measurements"),
        (lambda document: document | {"surprise": 1}, "surprise"),
        (lambda document: [document], "no benchmark report"),
        (lambda document: document | {"measurements": [{"model": "m"}]}, "rounds_us"),
        (
            lambda document: document | {"measurements": [document["measurements"][0] | {"rounds_us": [0.0]}]},
            "above 0",
        ),
        (lambda document: document | {"measurements": [document["measurements"][0] | {"rounds_us": []}]}, "no rounds"),
    ],
)  # fmt: skip
def test_unsound_files_are_refused(tmp_path, change, message):
    path = tmp_path / "report.json"
    save_report(report(measurement([1.0])), path)
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(DataError, match=message) as caught:
        load_report(path)
    assert str(path) in str(caught.value)


def test_missing_and_broken_files_are_named(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        load_report(tmp_path / "none.json")
    for content in ("{", "[" * 100_000):
        (tmp_path / "bad.json").write_text(content)
        with pytest.raises(DataError, match="not JSON"):
            load_report(tmp_path / "bad.json")


def test_ratios_are_taken_within_a_round():
    # The machine halves its speed in the second and third round; the ratio of the two does not change.
    assert median_speedup([1.0, 2.0, 2.0], [3.0, 6.0, 6.0]) == 3.0
    assert median_speedup([1.0], None) is None
    # 1000 multiply-adds in 1 µs are 2 GFLOP/s.
    assert median_share_of_peak([1.0, 2.0, 2.0], [8.0, 4.0, 4.0], 1000) == pytest.approx(0.25)
    assert median_share_of_peak([1.0], [8.0], None) is None
