from __future__ import annotations

import datetime as dt

import numpy as np
import pytest

from datasentinel.calendar_time import second_of_week, seconds
from datasentinel.time_text import DateOrders, is_time_text, read_time, why_no_time

NOON = dt.datetime(2026, 10, 24, 12)
FORMS = [
    "2026-10-24T12:00:00",
    "2026-10-24 12",
    "20261024T1200",
    "2026-W43-6T12:00",
    "2026/10/24 12:00",
    "2026.10.24  12:00:00.000",
    "20261024 1200",
    "24.10.2026 12:00",
    "24.10.26 12:00:00,000",
    "24/10/2026, 12:00",
    "24-10-2026T12:00",
    "10/24/2026 12:00 PM",
    "10/24/26 12:00pm",
]
IN_A_ZONE = [
    "2026-10-24 12:00 UTC",
    "2026/10/24 12:00Z",
    "24.10.2026 14:00 +0200",
    "10/24/2026 8:00 AM -04:00",
]


def utc(*parts):
    return dt.datetime(*parts, tzinfo=dt.UTC).timestamp()


@pytest.mark.parametrize("text", FORMS)
def test_forms_without_a_zone(text):
    assert is_time_text(text)
    assert read_time(f" {text} ", None) == NOON
    assert second_of_week([text], "Asia/Tokyo").tolist() == [(5 * 24 + 12) * 3600]


@pytest.mark.parametrize("text", IN_A_ZONE)
def test_forms_in_a_zone(text):
    assert is_time_text(text)
    assert seconds([text]).tolist() == [NOON.replace(tzinfo=dt.UTC).timestamp()]


def test_a_day_may_end_at_24_00_and_single_digits_do():
    assert read_time("2026-12-31 24:00", None) == dt.datetime(2027, 1, 1)
    assert read_time("1.2.2026 9:05", None) == dt.datetime(2026, 2, 1, 9, 5)
    assert read_time("31.12.99 1:00:00.25 am", None) == dt.datetime(1999, 12, 31, 1, 0, 0, 250_000)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "soon",
        "2026-13-01",
        "31.02.2026",
        "24.10.2026 25:00",
        "24.10.2026 12:60",
        "24/10/2026 13:00 PM",
        "2026-10-24 24:30",
        "24.10.126",
        "24-10/2026",
        "1.5",
        "\uff11/2/2026",
        "9999-12-31 24:00",
        "v1.2.3.4",
    ],
)
def test_what_is_no_time(text):
    assert not is_time_text(text)
    assert np.isnan(second_of_week([text])).all()
    assert why_no_time(text) == f"'{text}' is not a time"


def test_day_and_month_are_told_apart_by_all_dates():
    days = ["03/04/2026", "04/04/2026", "13/04/2026 5:00", "soon", None]
    assert DateOrders().seen(days).order == "day"
    assert DateOrders().seen(days[:2]).seen(days[2:]).order == "day"
    assert DateOrders().seen(["03/04/2026", "04/13/2026"]).order == "month"
    unclear = DateOrders().seen(days[:2])
    assert unclear.is_open
    assert unclear.problem == "'03/04/2026' may begin with the day or the month"
    same = DateOrders().seen(["04/04/2026"])
    assert same.is_open  # More dates may come.
    assert not same.problem


def test_each_date_is_read_in_the_order_of_all_or_if_it_has_only_one():
    assert seconds(["03/04/2026", "04/04/2026"], "month").tolist() == [utc(2026, 3, 4), utc(2026, 4, 4)]
    assert seconds(["04/04/2026", "13/04/2026"]).tolist() == [utc(2026, 4, 4), utc(2026, 4, 13)]
    assert np.isnan(seconds(["03/04/2026"])).all()
    assert np.isnan(seconds(["13/04/2026", "03/32/2026"], "month")).all()


def test_dates_that_contradict_each_other_have_no_order():
    both = DateOrders().seen(["13/04/2026", "04/13/2026"])
    assert both.order is None
    assert both.problem == "some dates begin with the day and others with the month"


def test_between_points_the_day_comes_first_if_it_can():
    assert seconds(["03.04.2026"]).tolist() == [utc(2026, 4, 3)]
    assert DateOrders().seen(["03.04.2026"]).order == "day"
    for dates in (["03.04.2026", "10.24.2026"], ["10.24.2026", "03.04.2026"]):
        assert DateOrders().seen(dates).order == "month"


def test_a_year_of_two_digits_may_come_first():
    assert DateOrders().seen(["24/10/26"]).problem == "'24/10/26' may begin with the day or the year"
    assert DateOrders().seen(["24/10/26", "32/10/26"]).order == "year"
    assert seconds(["24-10-26", "24-10-26"], "day").tolist() == [utc(2026, 10, 24)] * 2


def test_digits_are_times_since_1970_before_they_are_dates():
    """The first of these milliseconds begins as the last day of 1710 does."""
    told = [1_710_123_100_000, 1_710_123_160_000]
    assert seconds(list(map(str, told))).tolist() == [time / 1000 for time in told]
    assert seconds(["20261024", "20261025"]).tolist() == [utc(2026, 10, 24), utc(2026, 10, 25)]
    assert seconds(["20261032"]).tolist() == [20261032]


def test_durations_count_from_some_beginning():
    told = [dt.timedelta(milliseconds=1500), np.timedelta64(2, "m"), "7.5", 9]
    assert seconds(told).tolist() == [1.5, 120, 7.5, 9]


def test_reasons_name_what_is_wrong():
    assert why_no_time("12:30") == "'12:30' is a time of day without a date"
    assert why_no_time("04/13/2026") == (
        "'04/13/2026' is not a time with day and month in the order of the others"
    )
    assert why_no_time(None) == "'None' is not a time"
