"""How numbers and dates are written: what `train` finds in its table holds for all that the model reads."""

from __future__ import annotations

import csv
import datetime as dt

import numpy as np
import pytest
from click.testing import CliRunner

from datasentinel.artifact import load_artifact
from datasentinel.cli import cli
from datasentinel.cli.produce_rows import rows_to_send
from datasentinel.errors import DataSentinelError
from tests.seasons import A_DAY, STEP_S, telemetry

NAMES = tuple("abcde")


def german(value):
    return format(value, ",.3f").translate(str.maketrans(",.", ".,"))


def write(path, first_day, rows, date="%d/%m/%Y %H:%M", number=german):
    with path.open("w", newline="") as file:
        writer = csv.writer(file, delimiter=";")
        writer.writerow(["ts", *NAMES])
        for i, row in enumerate(rows.tolist()):
            time = dt.datetime.combine(first_day, dt.time()) + dt.timedelta(seconds=i * STEP_S)
            writer.writerow([time.strftime(date), *map(number, row)])
    return path


def datasentinel(*arguments):
    done = CliRunner().invoke(cli, list(map(str, arguments)), catch_exceptions=False)
    return done.stdout, done.stderr


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("german")
    rows = telemetry(8)[0]
    rows[:, 0] *= 100
    data = write(folder / "train.csv", dt.date(2024, 3, 11), rows)
    datasentinel(
        "train", data, "--model", "subspace", "--season", "day", "--time", "ts", "--out", folder / "m"
    )
    return folder / "m"


def to_send(file, models):
    return rows_to_send(
        count=None, file=file, label=None, normal=(), config=load_artifact(models).config, dim=None,
        anomaly_share=None, seed=0, id_column=None, time_column="ts", streams=None,
    )  # fmt: skip


def test_training_keeps_what_it_found(models):
    found = {"decimal": ",", "thousands": ".", "date_order": "day"}
    assert load_artifact(models).config.text_format == found


def test_a_file_that_leaves_all_open_is_read_as_in_training(models, tmp_path):
    """The 4th of May is a Saturday and the 5th of April a Friday; 1.234 is either number, and so is 1,234."""
    rows = np.round(telemetry(1, seed=3)[0][:20], 3)
    rows[:, 0] = np.arange(1_101, 1_121)
    rows[:, 1:] = np.round(rows[:, 1:] % 900) + 0.123
    day = dt.date(2024, 5, 4)
    plain = write(tmp_path / "plain.csv", day, rows, "%Y-%m-%dT%H:%M", repr)
    fields = [f"{value:,.0f}".replace(",", ".") if value > 1_000 else german(value) for value in rows.ravel()]
    turns = iter(fields)
    unclear = write(tmp_path / "unclear.csv", day, rows, number=lambda _: next(turns))
    scores, told = datasentinel("score", unclear, "--model", models, "--decimal", "comma")
    expected, _ = datasentinel("score", plain, "--model", models, "--decimal", "point")
    assert [line.split(",")[2:] for line in scores.splitlines()] == [
        line.split(",")[2:] for line in expected.splitlines()
    ]
    assert datasentinel("score", unclear, "--model", models) == (scores, told)
    assert "warning" not in told
    sent = to_send(unclear, models)
    assert [row.values[0] for row in sent] == rows[:, 0].tolist()


@pytest.mark.parametrize("command", [["score"], ["evaluate"], ["drift"], ["recalibrate"]])
def test_a_file_that_contradicts_the_training_is_not_read_silently(models, tmp_path, command):
    rows = np.round(telemetry(2, seed=3)[0][: A_DAY + 1], 3)
    data = write(tmp_path / "american.csv", dt.date(2024, 5, 12), rows, "%m/%d/%Y %H:%M", repr)
    arguments = [*command, models, data] if command != ["score"] else [*command, data, "--model", models]
    with pytest.raises(DataSentinelError, match=r"column 'ts': '05/13/2024 .*' does not begin with the day"):
        datasentinel(*arguments)
    if command == ["score"]:
        _, told = datasentinel(*arguments, "--month-first")
        assert (
            f"warning     column 'b': '{rows[0, 1]}' is read as {rows[0, 1]}, though decimal marks were"
            in told
        )
        assert " commas before; --decimal point or comma decides" in told
        assert f"{len(rows)} rows" in told
        assert " 0 bad rows" in told


def test_produce_tells_of_numbers_written_otherwise(models, tmp_path, capsys):
    rows = np.round(telemetry(1, seed=3)[0][:20], 3)
    data = write(tmp_path / "american.csv", dt.date(2024, 5, 4), rows, number=repr)
    assert [row.values[0] for row in to_send(data, models)] == rows.astype(np.float32)[:, 0].tolist()
    assert "though decimal marks were commas before" in capsys.readouterr().err
