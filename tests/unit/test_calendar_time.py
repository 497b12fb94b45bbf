from __future__ import annotations

import datetime as dt

import numpy as np
import pytest

from datasentinel.calendar_time import second_of_week
from datasentinel.errors import SettingsError

HOUR = 3600
WEDNESDAY_NOON = (2 * 24 + 12) * HOUR


@pytest.mark.parametrize(
    "moment",
    [
        "2024-05-15 12:00:00",
        " 2024-05-15T12:00 ",
        "2024-05-15T14:00:00+02:00",
        dt.datetime(2024, 5, 15, 12),
        dt.datetime(2024, 5, 15, 12, tzinfo=dt.UTC),
        np.datetime64("2024-05-15T12:00", "ns"),
        1715774400,
        "1715774400",
        1715774400e3,
        1715774400 * 10**6,
        1715774400 * 10**9,
    ],
)
def test_times_of_all_kinds_tell_the_second_of_the_week(moment):
    assert second_of_week([moment]).tolist() == [WEDNESDAY_NOON]


def test_a_clock_keeps_summer_time():
    times = ["2024-03-31T00:59:00Z", "2024-03-31T01:00:00Z", 1711846800, "2024-03-31T03:00:00"]
    sunday = 6 * 24 * HOUR
    assert (second_of_week(times, "Europe/Berlin") - sunday).tolist() == [
        1 * HOUR + 59 * 60,
        3 * HOUR,
        3 * HOUR,
        3 * HOUR,
    ]


def test_a_day_is_its_midnight_and_what_is_no_time_is_not_a_number():
    values = [dt.date(2024, 5, 13), "yesterday", None, "", 17, float("nan"), np.datetime64("NaT")]
    seconds = second_of_week(values)
    assert seconds[0] == 0
    assert np.isnan(seconds[1:]).all()


@pytest.mark.parametrize("name", ["Mars/Olympus", "", "../etc/passwd"])
def test_an_unknown_zone_is_refused(name):
    with pytest.raises(SettingsError, match="time zone"):
        second_of_week([0], name)
