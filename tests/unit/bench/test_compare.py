"""What counts as a regression, on made-up and on measured times."""

from __future__ import annotations

import numpy as np
import pytest

from datasentinel.bench.compare import compare_reports
from datasentinel.bench.measure import measure_in_turns
from datasentinel.bench.roof import measure_gflops
from tests.unit.bench.reports import ROOF, measurement, report


def noisy(centre: float, spread: float, seed: int, rounds: int = 15) -> list[float]:
    return list(centre * np.exp(np.random.default_rng(seed).normal(0, spread, rounds)))


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("spread", [0.001, 0.01, 0.1])
def test_noise_alone_is_no_change(seed, spread):
    before, after = measurement(noisy(5, spread, seed)), measurement(noisy(5, spread, seed + 1000))
    (change,) = compare_reports(report(before), report(after)).changes
    assert change.verdict == "same"
    assert change.bound >= 1.03


@pytest.mark.parametrize(
    ("factor", "spread", "verdict"),
    [
        (1.10, 0.005, "slower"),
        (0.90, 0.005, "faster"),
        (1.02, 0.0001, "same"),  # Beyond the noise, but too small to matter.
        (1.10, 0.10, "same"),  # As large as the noise.
        (2.00, 0.10, "slower"),
    ],
)
@pytest.mark.parametrize("seed", range(10))
def test_a_change_counts_when_it_is_beyond_the_noise(factor, spread, verdict, seed):
    before = measurement(noisy(5, spread, seed))
    after = measurement(noisy(5 * factor, spread, seed + 1000))
    comparison = compare_reports(report(before), report(after))
    assert [change.verdict for change in comparison.changes] == [verdict]
    assert len(comparison.regressions) == (verdict == "slower")


def test_one_slow_round_does_not_hide_a_regression():
    before = [10.0] * 14 + [500.0]
    after = [12.0] * 14 + [500.0]
    comparison = compare_reports(report(measurement(before)), report(measurement(after)))
    assert comparison.regressions


def test_the_smallest_change_of_interest_can_be_set():
    before, after = report(measurement([10.0] * 15)), report(measurement([10.5] * 15))
    assert compare_reports(before, after).regressions
    assert not compare_reports(before, after, min_change=0.1).regressions


def test_only_like_is_compared_with_like():
    before = report(measurement([1.0] * 5), measurement([1.0] * 5, batch=8))
    after = report(measurement([9.0] * 5, contender="auto"), measurement([1.0] * 5, batch=8))
    comparison = compare_reports(before, after)
    assert [change.before.batch for change in comparison.changes] == [8]
    assert [missing.key for missing in comparison.missing] == [("m", "python", "fused", 1)]
    assert not comparison.regressions


def test_doubtful_comparisons_say_why():
    before = report(measurement([1.0] * 5))
    after = report(
        measurement([1.0] * 5),
        machine=before.machine | {"cpu": "another cpu"},
        models=[before.models[0] | {"sha256": "cd"}],
        roof=[ROOF | {"gflops": 80.0}],
    )
    warnings = " ".join(compare_reports(before, after).warnings)
    assert "another cpu" in warnings
    assert "digest differs" in warnings
    assert "0.80 times" in warnings
    assert compare_reports(before, before).warnings == []


def test_measured_work_against_ten_times_the_work():
    # A clock that nothing moves but the work: what the machine is busy with meanwhile does not show.
    now_ns = 0
    noise = np.random.default_rng(0)

    def once() -> None:
        nonlocal now_ns
        now_ns += int(noise.normal(50_000, 1_000))

    def tenfold() -> None:
        for _ in range(10):
            once()

    timings = measure_in_turns(
        {"once": once, "again": once, "tenfold": tenfold},
        budget_s=0.3,
        peak_gflops=lambda: measure_gflops("portable", 1e-4),
        clock_ns=lambda: now_ns,
    )
    before = report(measurement(timings["once"].rounds_us))
    unchanged = compare_reports(before, report(measurement(timings["again"].rounds_us)), min_change=0.2)
    changed = compare_reports(before, report(measurement(timings["tenfold"].rounds_us)), min_change=0.2)
    assert unchanged.changes[0].verdict == "same"
    assert changed.changes[0].ratio == pytest.approx(10, rel=0.05)
    assert changed.changes[0].verdict == "slower"
