from __future__ import annotations

import datetime as dt

import numpy as np
import pytest

from datasentinel.backend import WallClock
from datasentinel.calendar_time import second_of_week, utc_offsets
from datasentinel.errors import InvalidInputError, SettingsError

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
    values = [dt.date(2024, 5, 13), "yesterday", None, "", 17, float("nan"), np.datetime64("NaT"), 10**400]
    values += ["9999-12-31T23:59:59-23:59", "0001-01-01T00:00:00+23:59"]  # beyond the years 1 to 9999 in UTC
    seconds = second_of_week(values)
    assert seconds[0] == 0
    assert np.isnan(seconds[1:]).all()


@pytest.mark.parametrize(
    "zone",
    ["UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe", "Africa/Casablanca"],
)
def test_a_servers_clock_says_the_same(zone):
    starts_s, offsets_s = utc_offsets(zone)
    clock = WallClock(starts_s, offsets_s)
    random = np.random.default_rng(0)
    changes = random.choice(starts_s, 100)
    about = [changes + offset for offset in (-1.0, -1e-6, 0.0, 0.25)]
    times_s = np.concatenate([random.uniform(6.3e8, 4.2e9, 3000), random.uniform(1.6e9, 1.9e9, 1000), *about])
    times_s = times_s[times_s >= 6.3e8]
    expected = second_of_week(times_s, zone).astype(np.float32)
    np.testing.assert_array_equal(np.float32([clock.second_of_week(time_s) for time_s in times_s]), expected)
    assert clock.second_of_week(-4.0 * 86_400) == (-4 * 86_400 + offsets_s[0] + 3 * 86_400) % (7 * 86_400)


def test_a_clock_without_offsets_is_refused():
    for starts_s, offsets_s in (([], []), ([1.0], []), ([1.0, 1.0], [0.0, 0.0])):
        with pytest.raises(InvalidInputError, match="ascending times"):
            WallClock(starts_s, offsets_s)


@pytest.mark.parametrize("name", ["Mars/Olympus", "", "../etc/passwd"])
def test_an_unknown_zone_is_refused(name):
    with pytest.raises(SettingsError, match="time zone"):
        second_of_week([0], name)
