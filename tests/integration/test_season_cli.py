from __future__ import annotations

import csv
import datetime as dt
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from click.testing import CliRunner

from datasentinel.artifact import load_artifact
from datasentinel.cli import cli
from datasentinel.detector import Detector
from datasentinel.errors import DataSentinelError
from tests.integration.server_process import to_lines, to_replies
from tests.seasons import A_DAY, STEP_S, telemetry

NAMES = ("load", "latency", "disk", "memory", "temperature")
BERLIN = ZoneInfo("Europe/Berlin")


def datasentinel(*arguments):
    return CliRunner().invoke(cli, list(map(str, arguments)), catch_exceptions=False).stdout


def write(path, first_day, rows, *, bad_time=None):
    """Write rows whose days begin at midnight in Berlin, with times in UTC."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["ts", *NAMES])
        for i, row in enumerate(rows):
            clock = dt.datetime.combine(first_day, dt.time()) + dt.timedelta(seconds=i * STEP_S)
            time = clock.replace(tzinfo=BERLIN).astimezone(dt.UTC).isoformat()
            writer.writerow(["soon" if i == bad_time else time, *row.tolist()])
    return path


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("season")
    # Monday; summer time begins on Sunday, March 31, in the middle of it.
    data = write(folder / "train.csv", dt.date(2024, 3, 11), telemetry(28)[0])
    told = datasentinel(
        "train", data, "--model", "subspace", "--season", "auto", "--time", "ts", "--time-zone",
        "Europe/Berlin", "--out", folder / "models",
    )  # fmt: skip
    assert "4 of 5 columns by the time of the week" in told
    return folder / "models"


def test_a_season_is_kept_across_summer_time(models, tmp_path):
    """Trained mostly in winter time, scored in summer time: the night's backup is where the clock has it."""
    config = load_artifact(models).config
    assert config.feature_names == (*NAMES, "second_of_week")
    rows, seconds = telemetry(7, seed=3)
    night = slice(4 * A_DAY + 24, 4 * A_DAY + 30)
    rows[night, 2] = 100
    data = write(tmp_path / "new.csv", dt.date(2024, 5, 13), rows, bad_time=5)
    told = datasentinel("score", data, "--model", models)
    scored = list(csv.DictReader(told.splitlines()))
    assert scored[5]["error"] == "row 5: column 'ts': 'soon' is not a time"
    good = np.array([i for i in range(len(rows)) if i != 5])
    scores = Detector.load(models).score(np.column_stack([rows, seconds]).astype(np.float32)[good])
    np.testing.assert_allclose([float(scored[i]["score"]) for i in good], scores, rtol=1e-5)
    anomalies = np.array([scored[i]["anomaly"] == "1" for i in range(len(rows))])
    assert anomalies[night].all()
    anomalies[night] = False
    assert anomalies.mean() < 0.02
    assert scored[4]["ts"] == "2024-05-12T22:20:00+00:00"


def test_other_commands_find_the_time_as_well(models, tmp_path):
    data = write(tmp_path / "quiet.csv", dt.date(2024, 5, 13), telemetry(7, seed=4)[0])
    assert "conformal on 2016 normal rows" in datasentinel("recalibrate", models, data)
    assert "second_of_week" in datasentinel("drift", models, data)


def test_a_server_takes_the_time_as_the_last_column(models, start_server):
    rows, seconds = telemetry(1, seed=6, start_day=2)
    asked = np.column_stack([rows, seconds]).astype(np.float32)
    asked[24:30, 2] = 100
    with start_server(artifact=models) as server:
        replies = server.ask(to_lines(asked)).splitlines()
    assert replies == to_replies(Detector.load(models).predict(asked))
    assert b"ANOMALY" in replies[24]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--season", "day", "--ignore", "ts"], "name their column with --time"),
        (["--season", "week", "--time", "ts"], "21 days are needed"),
        (["--season", "day", "--time", "ts", "--time-zone", "Berlin"], "unknown time zone 'Berlin'"),
        (["--time-zone", "UTC"], "--time-zone is for --season"),
    ],
)
def test_what_a_season_cannot_do_without(tmp_path, arguments, message):
    data = write(tmp_path / "train.csv", dt.date(2024, 3, 11), telemetry(4)[0])
    with pytest.raises(DataSentinelError, match=message):
        datasentinel("train", data, "--out", tmp_path / "m", *arguments)
