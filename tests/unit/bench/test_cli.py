"""`datasentinel bench` as a command: tables, JSON, charts, comparison and exit codes."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import pytest

from datasentinel.bench.report import load_report, save_report

PNG = b"\x89PNG\r\n\x1a\n"


def datasentinel(*arguments, code=0):
    command = [sys.executable, "-m", "datasentinel", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def measured(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("measured")
    done = datasentinel(
        "bench", model, "--batches", "1,16", "--budget-s", "0.3",
        "--json", folder / "a.json", "--charts", folder / "charts",
    )  # fmt: skip
    return folder, done


def test_a_model_is_measured_beside_its_peers(measured):
    folder, done = measured
    report = load_report(folder / "a.json")
    found = {(one.contender, one.batch) for one in report.measurements}
    assert found >= {
        (name, batch) for name in ("auto", "onnxruntime", "onnxruntime-python") for batch in (1, 16)
    }
    assert report.machine["cpu"]
    assert report.machine["versions"]["python"]
    assert report.settings["batches"] == [1, 16]
    for one in report.measurements:
        assert 0 < one.p50_us <= one.p90_us <= one.p99_us
        assert one.rows_per_s == pytest.approx(1e6 * one.batch / one.p50_us)
        assert 0 < one.share_of_peak < 1.2
        assert one.speedup == 1 or one.contender != "onnxruntime-python"
    assert not [entry for entry in report.left_out if "wrong" in entry["reason"]]
    for text in ("small one", "onnxruntime-python", "GFLOP/s", "left out: tensorrt"):
        assert text in done.stdout


def test_charts_are_pictures(measured):
    charts = sorted((measured[0] / "charts").iterdir())
    assert [path.name for path in charts] == [
        "small_one-latency.png",
        "small_one-share-of-peak.png",
        "small_one-throughput.png",
    ]
    assert all(path.read_bytes().startswith(PNG) and path.stat().st_size > 5000 for path in charts)


def test_comparison_finds_a_regression_in_measured_data(measured):
    folder, _ = measured
    report = load_report(folder / "a.json")
    slow = dataclasses.replace(
        report,
        measurements=[
            dataclasses.replace(one, rounds_us=tuple(100 * us for us in one.rounds_us))
            if one.key[2:] == ("auto", 16)
            else one
            for one in report.measurements
        ],
    )
    save_report(slow, folder / "slow.json")
    same = datasentinel("bench", "--compare", folder / "a.json", folder / "a.json")
    assert "0 slower" in same.stdout
    worse = datasentinel("bench", "--compare", folder / "a.json", folder / "slow.json", code=1)
    assert "1 slower" in worse.stdout
    better = datasentinel("bench", "--compare", folder / "slow.json", folder / "a.json")
    assert "faster" in better.stdout


def test_wrong_usage_is_told(model, tmp_path):
    assert "MODEL" in datasentinel("bench", code=2).stderr
    assert "no MODEL" in datasentinel("bench", model, "--compare", "a", "b", code=2).stderr
    assert "1,8,64" in datasentinel("bench", model, "--batches", "0", code=2).stderr
    (tmp_path / "bad.json").write_text("{}")
    done = datasentinel("bench", "--compare", tmp_path / "bad.json", tmp_path / "bad.json", code=1)
    assert "no benchmark report" in done.stderr
