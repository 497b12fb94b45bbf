"""Calls from C++: every backend of ours beside ONNX Runtime's C API, by model and batch size.

The times are taken in turns by the executable of benchmarks/cpp; here they only enter pytest-benchmark.
"""

from __future__ import annotations

import pytest

from benchmarks import native
from benchmarks.conftest import note
from benchmarks.models import SIZES
from datasentinel import backend

CONTENDERS = (native.BASELINE, *(status.name for status in backend.backends()))


class ReplayedClock:
    """A clock that is moved on by hand, by what another process has measured."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


CLOCK = ReplayedClock()


@pytest.fixture(scope="module")
def measured(subjects, case_s, request):
    batches = request.config.getoption("--batches")
    cache: dict[str, dict[int, native.NativeResult]] = {}

    def of(size: str) -> dict[int, native.NativeResult]:
        if size not in cache:
            budget_s = case_s * len(batches) * len(CONTENDERS)
            cache[size] = native.measure_native(subjects(size), batches, budget_s)
        return cache[size]

    return of


@pytest.mark.timeout(1800)  # The first case builds the executable and measures all batch sizes.
@pytest.mark.benchmark(timer=CLOCK)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("contender", CONTENDERS)
def bench_backend(benchmark, measured, subjects, size, batch, contender):
    benchmark.group = f"C++, {size}, {batch} rows"
    result = measured(size)[batch]
    if contender in result.left_out:
        pytest.skip(result.left_out[contender])
    timing = result.timings[contender]
    samples_s = iter([1e-6 * sample for sample in timing.samples_us])

    def replay() -> None:
        CLOCK.now_s += next(samples_s)

    benchmark.pedantic(replay, rounds=len(timing.samples_us), iterations=1)
    note(benchmark, subjects(size), batch, timing.samples_us, timing.peaks_gflops)
