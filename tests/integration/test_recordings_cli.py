from __future__ import annotations

import csv
import datetime as dt
import json
import shutil
from collections import Counter

import numpy as np
import pytest
from click.testing import CliRunner

from datasentinel.artifact import load_artifact
from datasentinel.cli import cli
from datasentinel.detector import Detector
from datasentinel.errors import DataSentinelError
from tests.recordings import noisy, oscillations

NAMES = [f"m{i}" for i in range(7)]
STEP_S = 10


def datasentinel(*arguments):
    done = CliRunner().invoke(cli, list(map(str, arguments)))
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done


def write(path, series, *, gap_after=None, labels=None):
    """Write the rows of several hosts by turns, ten seconds apart, with a gap of an hour."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["ts", "host", *NAMES, *["label"] * (labels is not None)])
        for i in range(len(next(iter(series.values())))):
            time = 1_700_000_000 + STEP_S * i + (3600 if gap_after is not None and i >= gap_after else 0)
            for name, rows in series.items():
                writer.writerow([time, name, *rows[i], *([] if labels is None else [int(labels[i])])])
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recordings")
    series = {f"pump-{seed}": oscillations(900, seed=seed) for seed in range(3)}
    data = write(folder / "train.csv", series)
    told = datasentinel(
        "train", data, "--model", "context", "--time", "ts", "--id", "host", "--half-life", "80s,320s",
        "--out", folder / "models",
    )  # fmt: skip
    return folder / "models", told.stdout


def test_half_lives_in_time_and_the_rate_by_the_hour(trained):
    models, told = trained
    state = load_artifact(models).config.state
    assert state["half_lives_rows"] == [8.0, 32.0]
    assert state["warm_up_rows"] == 96
    assert state["gap_s"] == 960
    assert "an hour)" in told
    alarms = load_artifact(models).config.calibration["false_alarms"]
    assert alarms["row_s"] == 10
    assert alarms["events_per_hour"] == pytest.approx(360 / alarms["rows_between"], rel=1e-3)


def test_recordings_with_times_or_series_get_a_memory_unless_told_otherwise(tmp_path):
    data = write(tmp_path / "train.csv", {f"pump-{seed}": oscillations(500, seed=seed) for seed in range(2)})
    models = tmp_path / "models"
    for arguments, expected in (
        (["--time", "ts", "--id", "host"], True),
        (["--id", "host", "--ignore", "ts"], True),
        (["--time", "ts", "--id", "host", "--model", "subspace"], False),
    ):
        datasentinel("train", data, "--out", models, *arguments)
        config = load_artifact(models).config
        assert bool(config.state) == expected, arguments
    one = write(tmp_path / "one.csv", {"pump-0": oscillations(500)})
    datasentinel("train", one, "--out", models, "--ignore", "ts,host")
    assert not load_artifact(models).config.state


def test_a_recording_that_goes_back_in_time_is_a_table_and_that_is_said(tmp_path):
    """Local times over the end of summer time: an hour comes twice."""
    data = write(tmp_path / "train.csv", {"a": oscillations(500)})
    lines = data.read_text().splitlines()
    begin = 1_792_886_400  # Sunday, October 25, 2026
    for i, line in enumerate(lines[1:]):
        second = begin + 60 * (i - 60 * (i >= 180))
        time = dt.datetime.fromtimestamp(second, dt.UTC).strftime("%d.%m.%Y %H:%M")
        lines[1 + i] = ",".join([time, *line.split(",")[1:]])
    data.write_text("\n".join(lines))
    arguments = ["train", data, "--time", "ts", "--ignore", "host", "--out", tmp_path / "models"]
    told = datasentinel(*arguments)
    assert "warning     row 180 is earlier than the one before it" in told.stderr
    assert "offset from UTC" in told.stderr
    assert "trained as a table, without memory" in told.stderr
    assert not load_artifact(tmp_path / "models").config.state
    with pytest.raises(DataSentinelError, match="row 180 is earlier"):
        datasentinel(*arguments, "--model", "context")


@pytest.mark.parametrize(
    ("form", "asked", "message"),
    [
        ("%H:%M:%S", ["--id", "host"], "'00:00:00' is a time of day without a date"),
        ("04/03/2026 %H:%M", ["--id", "host"], "'04/03/2026' may begin with the day or the month"),
        ("01-Mar-2026 %H:%M", ["--time", "ts", "--ignore", "host"], "'01-Mar-2026 00:00' is not a time"),
    ],
)
def test_times_that_cannot_be_read_make_a_table_of_all_rows(tmp_path, form, asked, message):
    data = write(tmp_path / "train.csv", {"a": oscillations(500)})
    lines = data.read_text().splitlines()
    for i, line in enumerate(lines[1:]):
        time = dt.datetime.fromtimestamp(60 * i, dt.UTC).strftime(form)
        lines[1 + i] = ",".join([time, *line.split(",")[1:]])
    data.write_text("\n".join(lines))
    arguments = ["train", data, *asked, "--out", tmp_path / "models"]
    told = datasentinel(*arguments)
    assert "500 rows of" in told.stdout
    assert f"column 'ts': {message}" in told.stderr
    assert "some rows have no time; trained as a table, without memory" in told.stderr
    assert not load_artifact(tmp_path / "models").config.state
    with pytest.raises(DataSentinelError, match="day-first" if "/" in form else "no usable rows"):
        datasentinel(*arguments, "--model", "context")


def test_a_series_begins_anew_after_a_gap(trained, tmp_path):
    models, _ = trained
    series = {"pump-7": oscillations(400, seed=7), "pump-8": noisy(oscillations(400, seed=8), 320, 350)}
    data = write(tmp_path / "new.csv", series, gap_after=150)
    told = datasentinel("score", data, "--model", models, "--explain", "2").stdout
    scored = list(csv.DictReader(told.splitlines()))
    for name in series:
        rows = [row for row in scored if row["host"] == name]
        if name == "pump-8":
            shaking = [row["reason_1"].split("=")[0] for row in rows[325:350] if row["anomaly"] == "1"]
            assert Counter(shaking).most_common(1)[0][0] == "m0"
        warming = np.flatnonzero([row["warming"] == "1" for row in rows])
        assert warming.tolist() == [*range(96), *range(150, 246)]
        assert any(row["anomaly"] == "1" for row in rows[320:355]) == (name == "pump-8")


def test_evaluate_tells_of_false_alarms(trained, tmp_path):
    models, _ = trained
    labels = np.zeros(700, bool)
    labels[500:540] = True
    data = write(tmp_path / "one.csv", {"a": noisy(oscillations(700, seed=4), 500, 540)}, labels=labels)
    told = json.loads(datasentinel("evaluate", models, data, "--json").stdout)
    assert told["events"]["found"] == 1
    assert told["false_alarms"]["rows"] == 660
    budget = json.loads(datasentinel("evaluate", models, data, "--json", "--alarm-budget", "0.001").stdout)
    assert budget["events"]["found"] == 1
    assert budget["false_alarms"]["above"] <= told["false_alarms"]["above"]
    assert "normal rows: " in datasentinel("evaluate", models, data).stdout


def test_all_commands_score_each_series_in_its_own_past(trained, tmp_path):
    """By turns in the file, each series is as normal as by itself; as one recording, none would be."""
    models, _ = trained
    labels = np.zeros(500, bool)
    labels[300:330] = True
    series = {f"pump-{seed}": noisy(oscillations(500, seed=seed), 300, 330) for seed in (11, 12)}
    data = write(tmp_path / "two.csv", series, labels=labels)
    told = json.loads(datasentinel("evaluate", models, data, "--json").stdout)
    assert told["events"]["segments"] == 2
    assert told["events"]["found"] == 2
    assert told["false_alarms"]["per_1000_rows"] <= 30
    before = Detector.load(models).threshold
    again = tmp_path / "again"
    shutil.copytree(models, again)
    assert "an hour)" in datasentinel("recalibrate", again, data).stdout
    calibration = load_artifact(again).config.calibration
    assert calibration["false_alarms"]["row_s"] == STEP_S
    assert calibration["rows"] == 2 * (500 - 30 - 96)
    assert before / 2 < Detector.load(again).threshold < 2 * before


def test_series_that_run_backwards_are_told_of(trained, tmp_path):
    models, _ = trained
    series = {"a": oscillations(200), "b": oscillations(200, seed=5)}
    data = write(tmp_path / "new.csv", series, labels=np.arange(200) % 50 == 0)
    assert "earlier" not in datasentinel("score", data, "--model", models).stderr
    header, *lines = data.read_text().splitlines()
    data.write_text("\n".join([header, *reversed(lines)]))
    message = "398 rows are earlier than the one before them in their series"
    assert message in datasentinel("evaluate", models, data).stderr
    told = datasentinel("score", data, "--model", models).stderr
    assert message in told
    # Where half-lives count time, none passes.
    assert "no row could be judged" in told
    with pytest.raises(DataSentinelError, match="all are of streams that warm up"):
        datasentinel("drift", models, data)


def test_drift_is_not_of_rows_that_warm_up(trained, tmp_path):
    models, _ = trained
    data = write(tmp_path / "new.csv", {f"pump-{seed}": oscillations(200, seed=seed) for seed in range(3)})
    told = json.loads(datasentinel("drift", models, data, "--json").stdout)
    assert told["rows"] == 3 * (200 - 96)


_TOO_SHORT = (
    r"between 1 and 100000 rows, got 0.1; rows are usually 10 s apart \(the median over all series\)$"
)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--half-life", "0.5"], "between 1 and 100000 rows, got 0.5$"),
        (["--half-life", "30s"], "name their column with --time"),
        (["--half-life", "1s", "--time", "ts", "--id", "host"], _TOO_SHORT),
        (["--model", "subspace", "--half-life", "8"], "--half-life is for --model context"),
        (["--time", "ts"], "row 4 is earlier than the one before it"),
    ],
)
def test_what_does_not_go_together_is_refused(tmp_path, arguments, message):
    rows = oscillations(300)
    data = write(tmp_path / "train.csv", {"a": rows, "b": rows})
    lines = data.read_text().splitlines(keepends=True)
    lines[4], lines[5], lines[6] = lines[6], lines[4], lines[5]
    if message.startswith("row"):
        data.write_text("".join(lines))
    given = [] if "--time" in arguments else ["--ignore", "ts,host"]
    ignored = ["--ignore", "host"] if "--time" in arguments and "--id" not in arguments else given
    with pytest.raises(DataSentinelError, match=message):
        datasentinel("train", data, "--model", "context", "--out", tmp_path / "m", *ignored, *arguments)


def test_a_half_life_that_is_none_is_refused(tmp_path):
    data = write(tmp_path / "train.csv", {"a": oscillations(300)})
    refused = datasentinel(
        "train", data, "--model", "context", "--half-life", "soon", "--out", tmp_path / "m"
    )
    assert refused.exit_code != 0
    assert "'soon' is neither a number of rows" in refused.output
