"""The column of times: every form that is recognised is read, and the whole column tells day from month."""

from __future__ import annotations

import datetime as dt
import os
import threading

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datasentinel.errors import DataError
from datasentinel.tables import Roles, open_table
from datasentinel.tables.text_format import TextFormat

ROWS = 60
BEGIN = dt.datetime(2026, 10, 24, 12)
# Each begins with what `strftime` writes; the dates of an hour in October are no 12th.
FORMS = [
    "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M UTC", "%Y/%m/%d %H:%M:%S", "%Y%m%d %H%M", "%Y%m%dT%H%M%SZ",
    "%d.%m.%Y %H:%M", "%d.%m.%y %H:%M:%S", "%d/%m/%Y %H:%M", "%d-%m-%Y %H:%M:%S.%f", "%m/%d/%Y %I:%M %p",
    "%m/%d/%y %H:%M", "%m-%d-%Y, %H:%M:%S",
]  # fmt: skip


def write(path, times, **more):
    frame = pd.DataFrame({"when": times, "a": np.random.default_rng(0).normal(size=len(times)), **more})
    frame.to_csv(path, index=False)
    return path


def minutes(count, begin=BEGIN, step_minutes=1):
    return [begin + dt.timedelta(minutes=step_minutes * i) for i in range(count)]


def utc(times):
    return [time.replace(tzinfo=dt.UTC).timestamp() for time in times]


@pytest.mark.parametrize("form", FORMS)
def test_what_is_recognised_is_read(tmp_path, form):
    times = minutes(ROWS)
    table = open_table(write(tmp_path / "data.csv", [time.strftime(form) for time in times]))
    assert [str(column) for column in table.columns.left_out] == ["column 'when' is left out: timestamps"]
    data = table.read(with_times=True)
    assert data.problems.total == 0
    assert data.times_s.tolist() == utc(times)


def test_rows_far_down_decide_what_dates_begin_with(tmp_path):
    """Of half-hourly rows the first 1,000, from which columns are judged, end before the 12th is over."""
    times = minutes(1400, dt.datetime(2026, 3, 1), 15)
    path = write(tmp_path / "data.csv", [time.strftime("%m/%d/%Y %H:%M") for time in times])
    assert open_table(path).read(with_times=True).times_s.tolist() == utc(times)
    with pytest.raises(
        DataError, match="column 'when': '03/01/2026' may begin with the day or the month: say"
    ):
        open_table(write(tmp_path / "short.csv", [f"03/01/2026 {i:02}:00" for i in range(24)])).read(
            with_times=True
        )


def test_points_do_not_hide_what_rows_far_down_tell(tmp_path):
    times = minutes(1400, dt.datetime(2026, 3, 1), 15)
    for form in ("%m.%d.%Y %H:%M", "%d.%m.%Y %H:%M"):
        path = write(tmp_path / "data.csv", [time.strftime(form) for time in times])
        assert open_table(path).read(with_times=True).times_s.tolist() == utc(times)
    path = write(tmp_path / "short.csv", ["03.04.2026"] * ROWS)
    assert set(open_table(path).read(with_times=True).times_s) == set(utc([dt.datetime(2026, 4, 3)]))


def test_all_files_decide_together(tmp_path):
    days = [["03/04/2026"] * 20 + ["05/04/2026"] * 20, ["13/04/2026"] * 20]
    for i, dates in enumerate(days):
        write(tmp_path / f"{i}.csv", dates)
    times_s = open_table(tmp_path).read(with_times=True).times_s
    assert np.unique(times_s).tolist() == utc(dt.datetime(2026, 4, day) for day in (3, 5, 13))


def test_what_dates_begin_with_can_be_told(tmp_path):
    path = write(tmp_path / "data.csv", ["03/04/2026"] * ROWS)
    for day_first, date in ((True, dt.datetime(2026, 4, 3)), (False, dt.datetime(2026, 3, 4))):
        data = open_table(path, roles=Roles(day_first=day_first)).read(with_times=True)
        assert set(data.times_s) == set(utc([date]))


@pytest.mark.parametrize(
    ("order", "date"), [("day", dt.datetime(2026, 4, 3)), ("month", dt.datetime(2026, 3, 4))]
)
def test_what_dates_began_with_in_training_holds_for_later_tables(tmp_path, order, date):
    trained = Roles(text=TextFormat(date_order=order))
    path = write(tmp_path / "data.csv", ["03/04/2026"] * ROWS)
    data = open_table(path, roles=trained).read(with_times=True)
    assert set(data.times_s) == set(utc([date]))
    assert data.text.date_order == order
    other = "04/13/2026" if order == "day" else "13/04/2026"
    for dates in ([other] * ROWS, ["03/04/2026"] * 1100 + [other]):
        path = write(tmp_path / "data.csv", dates)
        told = f"column 'when': '{other}' does not begin with the {order}, as dates that the model was trained on"
        with pytest.raises(DataError, match=f"{told} did: say --day-first or --month-first"):
            open_table(path, roles=trained).read(with_times=True)
        decided = Roles(text=trained.text, day_first=order == "month")
        assert open_table(path, roles=decided).read(with_times=True).problems.total == 0
    times = minutes(ROWS)
    path = write(tmp_path / "data.csv", [time.isoformat() for time in times])
    assert open_table(path, roles=trained).read(with_times=True).times_s.tolist() == utc(times)


def test_dates_in_both_orders_are_refused_and_strays_are_bad_rows(tmp_path):
    path = write(tmp_path / "both.csv", ["13/04/2026"] * 30 + ["04/13/2026"] * 30)
    with pytest.raises(DataError, match="some dates begin with the day and others with the month"):
        open_table(path).read(with_times=True)
    path = write(tmp_path / "stray.csv", ["13/04/2026"] * 1100 + ["04/13/2026", "", "soon", "13/04/2026"])
    data = open_table(path).read(with_times=True)
    assert [str(bad) for bad in data.bad] == [
        "row 1100: column 'when': '04/13/2026' is not a time with day and month in the order of the others",
        "row 1102: column 'when': 'soon' is not a time",
    ]
    assert len(data.values) == len(data.times_s) == 1102
    assert np.flatnonzero(np.isnan(data.times_s)).tolist() == [1100]
    assert data.first_untimed == 1101
    told = open_table(tmp_path / "both.csv", roles=Roles(day_first=False)).read(with_times=True)
    assert told.times_s.tolist() == utc([dt.datetime(2026, 4, 13)]) * 30
    assert told.problems.total == 30


def test_times_of_day_are_refused(tmp_path):
    path = write(tmp_path / "data.csv", [time.strftime("%H:%M:%S") for time in minutes(ROWS)])
    data = open_table(path).read(with_times=True)
    assert not len(data.values)
    assert str(data.bad[0]) == "row 0: column 'when': '12:00:00' is a time of day without a date"


def test_times_that_are_not_needed_cost_no_rows(tmp_path):
    path = write(tmp_path / "stray.csv", ["13/04/2026"] * ROWS + ["", "soon", "now"])
    data = open_table(path).read(with_times=True, needs_times=False)
    assert len(data.values) == len(data.times_s) == ROWS + 3
    assert np.flatnonzero(np.isnan(data.times_s)).tolist() == [ROWS, ROWS + 1, ROWS + 2]
    assert data.warnings == [f"{path}: column 'when': 'soon' is not a time"]
    path = write(tmp_path / "unclear.csv", ["03/04/2026"] * ROWS)
    data = open_table(path).read(with_times=True, needs_times=False)
    assert np.isnan(data.times_s).all()
    assert len(data.warnings) == 1
    assert "say --day-first or --month-first" in data.warnings[0]


def test_a_pipe_is_decided_by_its_beginning(tmp_path):
    def piped(name, dates):
        path = tmp_path / name
        os.mkfifo(path)
        text = write(tmp_path / "data.csv", dates).read_text()
        threading.Thread(target=path.write_text, args=(text,), daemon=True).start()
        return open_table(path)

    decided = piped("decided", ["03/04/2026", "13/04/2026"] * 30).read(with_times=True)
    assert decided.times_s.tolist() == utc([dt.datetime(2026, 4, 3), dt.datetime(2026, 4, 13)]) * 30
    unclear = piped("unclear", ["03/04/2026"] * ROWS)
    with pytest.raises(DataError, match="say --day-first or --month-first"):
        unclear.read(with_times=True)
    assert len(unclear.read().values) == ROWS


def test_a_season_reads_them_too(tmp_path):
    times = minutes(ROWS)
    table = open_table(write(tmp_path / "data.csv", [time.strftime("%d/%m/%Y %H:%M") for time in times]))
    table.add_calendar("UTC")
    noon_of_saturday = (5 * 24 + 12) * 3600
    assert table.read().values[:, 1].tolist() == [noon_of_saturday + 60 * i for i in range(ROWS)]
    unclear = open_table(write(tmp_path / "data.csv", ["03/04/2026"] * ROWS))
    with pytest.raises(DataError, match="may begin with the day or the month"):
        unclear.add_calendar("UTC")


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_durations_are_seconds(tmp_path, unit):
    """They are measurements; as the column of times they count from some beginning."""
    took = np.random.default_rng(1).integers(1000, 9999, ROWS)
    per_s = {"s": 1, "ms": 1e3, "us": 1e6, "ns": 1e9}[unit]
    columns = {
        "a": np.arange(ROWS) % 7.0,
        "took": pa.array([None, *took[1:].tolist()], pa.duration(unit)),
        "elapsed": pa.array(np.arange(ROWS) * 1000, pa.duration(unit)),
    }
    pq.write_table(pa.table(columns), tmp_path / "data.parquet")
    data = open_table(tmp_path / "data.parquet", roles=Roles(time="elapsed")).read(with_times=True)
    assert data.feature_names == ("a", "took")
    assert [str(bad) for bad in data.bad] == ["row 0: column 'took': is missing"]
    np.testing.assert_array_equal(data.values[:, 1], took[1:] / per_s)
    np.testing.assert_array_equal(data.times_s, np.arange(1, ROWS) * 1000 / per_s)
