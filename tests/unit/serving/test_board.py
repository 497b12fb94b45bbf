"""The board of metrics: sums that never go down, states by worker."""

from __future__ import annotations

import os

import pytest
from prometheus_client import Metric
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)

from datasentinel.serving.board import Board


def metrics(count: int) -> list[Metric]:
    requests = CounterMetricFamily("requests", "Requests.", labels=["transport"])
    requests.add_metric(["tcp"], count)
    requests.add_metric(["grpc"], 10 * count)
    histogram = HistogramMetricFamily(
        "seconds", "Time.", buckets=[("0.1", count), ("+Inf", 2 * count)], sum_value=0.5 * count
    )
    return [
        requests,
        histogram,
        GaugeMetricFamily("ready", "Readiness.", value=count),
        InfoMetricFamily("model", "Facts.", value={"name": "m"}),
    ]


def values(combined: list[Metric]) -> dict[tuple, float]:
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for metric in combined
        for sample in metric.samples
    }


def test_alone_a_worker_tells_its_own(tmp_path):
    got = values(Board(tmp_path, 0).combine(metrics(3)))
    assert got["requests_total", ("transport", "tcp")] == 3
    assert got["ready", ("worker", "0")] == 3
    assert got["model_info", ("name", "m")] == 1


def test_counts_are_summed_and_states_kept_apart(tmp_path):
    Board(tmp_path, 1).post(metrics(2))
    Board(tmp_path, 2).post(metrics(4))
    assert values(Board(tmp_path, 0).combine(metrics(1))) == {
        ("requests_total", ("transport", "tcp")): 7,
        ("requests_total", ("transport", "grpc")): 70,
        ("seconds_bucket", ("le", "0.1")): 7,
        ("seconds_bucket", ("le", "+Inf")): 14,
        ("seconds_count",): 14,
        ("seconds_sum",): 3.5,
        ("ready", ("worker", "0")): 1,
        ("ready", ("worker", "1")): 2,
        ("ready", ("worker", "2")): 4,
        ("model_info", ("name", "m")): 1,
    }


def test_a_successor_goes_on_from_the_counts_of_the_dead(tmp_path):
    first = Board(tmp_path, 1)
    assert not first.is_successor
    first.post(metrics(2))
    second = Board(tmp_path, 1)
    assert second.is_successor
    second.post(metrics(5))
    third = Board(tmp_path, 1)
    key = ("requests_total", ("transport", "tcp"))
    assert values(third.combine(metrics(1)))[key] == 2 + 5 + 1
    assert values(third.combine([]))[key] == 7
    assert ("ready", ("worker", "1")) not in values(third.combine([]))
    assert values(Board(tmp_path, 0).combine(metrics(1)))[key] == 8


def test_the_state_of_a_worker_that_is_gone_does_not_count_but_its_work_does(tmp_path):
    Board(tmp_path, 1).post(metrics(2))
    long_ago = (tmp_path / "1.json").stat().st_mtime - 60
    os.utime(tmp_path / "1.json", (long_ago, long_ago))
    got = values(Board(tmp_path, 0).combine(metrics(1)))
    assert got["requests_total", ("transport", "tcp")] == 3
    assert ("ready", ("worker", "1")) not in got


def test_the_last_to_clear_takes_the_board_away(tmp_path):
    folder = tmp_path / "board"
    folder.mkdir()
    boards = [Board(folder, number) for number in range(2)]
    for board in boards:
        board.post(metrics(1))
    boards[0].clear()
    assert folder.exists()
    boards[1].clear()
    assert not folder.exists()


def test_a_board_that_cannot_be_written_is_an_error_of_the_system(tmp_path):
    with pytest.raises(OSError, match="No such file"):
        Board(tmp_path / "none", 0).post(metrics(1))
