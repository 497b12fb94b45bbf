"""Calls from Python: our backends through `Detector.score`, and every peer, by model and batch size.

pytest-benchmark measures one after the other; `python -m benchmarks.compare` measures the same in turns, and
its ratios are the ones to quote.
"""

from __future__ import annotations

import functools

import pytest

from benchmarks.conftest import note
from benchmarks.models import SIZES
from benchmarks.peers import all_contenders
from datasentinel.bench.measure import calibrate
from datasentinel.bench.run import prepare_checked

CONTENDERS = {contender.name: contender for contender in all_contenders()}


@pytest.fixture(scope="module")
def checked_rows(subjects, request):
    """Rows and their float64 scores, for the largest batch."""
    most = max(request.config.getoption("--batches")) + 1

    @functools.cache
    def of(size):
        rows = subjects(size).rows(most)
        return rows, subjects(size).reference(rows)

    return of


@pytest.mark.filterwarnings("ignore")  # The peers' own affairs.
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("contender", CONTENDERS)
def bench_python_call(benchmark, subjects, checked_rows, peak_gflops, case_s, size, batch, contender):
    chosen = CONTENDERS[contender]
    if chosen.unavailable:
        pytest.skip(chosen.unavailable)
    rows, expected = checked_rows(size)
    call, problem = prepare_checked(chosen, subjects(size), rows[: batch + 1], expected[: batch + 1])
    assert call is not None, problem
    benchmark.group = f"Python, {size}, {batch} rows"
    benchmark.extra_info["settings"] = chosen.settings
    calls_per_sample, call_us = calibrate(call)
    rounds = max(5, int(1e6 * case_s / (calls_per_sample * call_us)))
    before = peak_gflops()
    benchmark.pedantic(call, rounds=rounds, iterations=calls_per_sample)
    if benchmark.stats is not None:  # None with --benchmark-disable.
        samples_us = [1e6 * sample for sample in benchmark.stats.stats.data]
        note(benchmark, subjects(size), batch, samples_us, [before, peak_gflops()])
