"""Takes times in turns, so that a change in the machine's speed hits all alike."""

from __future__ import annotations

import gc
import itertools
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

MIN_ROUNDS = 5
MAX_ROUNDS = 15
# Shorter calls are timed in groups of this length, which the clock can tell apart.
_SAMPLE_AT_LEAST_US = 20.0
_LONG_US = 1e4


@dataclass
class Timing:
    """The times of one contender.

    Attributes
    ----------
    calls_per_sample : int
        A sample is the mean of so many calls.
    samples_us : list of float
        Microseconds per call.
    rounds_us : list of float
        The median sample of each round.
    peaks_gflops : list of float
        What the core could do at most, measured in each round.
    """

    calls_per_sample: int
    samples_us: list[float] = field(default_factory=list)
    rounds_us: list[float] = field(default_factory=list)
    peaks_gflops: list[float] = field(default_factory=list)


def measure_in_turns(
    calls: dict[str, Callable[[], object]],
    *,
    budget_s: float,
    peak_gflops: Callable[[], float],
    clock_ns: Callable[[], int] = time.perf_counter_ns,
) -> dict[str, Timing]:
    """Time every call, round after round, for about `budget_s` in all.

    Each round asks `peak_gflops` for the core's peak, then runs every call once; every other round goes
    backwards, so that no call always follows the same neighbour. There are 5 to 15 rounds: where five rounds
    of single calls take longer than the budget, they take as long as they take.

    Parameters
    ----------
    calls : dict
        Name → function that does the work once.
    budget_s : float
        Time for all calls together.
    peak_gflops : callable
        Measures the core's peak.
    clock_ns : callable
        The clock; the default is what a caller waits, `time.thread_time_ns` only what this thread works.

    Returns
    -------
    dict
        Name → Timing.
    """
    timings: dict[str, Timing] = {}
    turns_s: dict[str, float] = {}
    collects = gc.isenabled()
    gc.disable()
    try:
        for name, call in calls.items():
            calls_per_sample, call_us = calibrate(call, clock_ns)
            timings[name] = Timing(calls_per_sample)
            turns_s[name] = max(call_us * 1e-6, budget_s / MAX_ROUNDS / len(calls))
        rounds = min(max(int(budget_s / sum(turns_s.values())), MIN_ROUNDS), MAX_ROUNDS)
        for number in range(rounds):
            peak = peak_gflops()
            for name in list(calls) if number % 2 == 0 else reversed(calls):
                _take_turn(calls[name], timings[name], turns_s[name], clock_ns)
                timings[name].peaks_gflops.append(peak)
    finally:
        if collects:
            gc.enable()
    return timings


def calibrate(
    call: Callable[[], object], clock_ns: Callable[[], int] = time.perf_counter_ns
) -> tuple[int, float]:
    """Warm a call up; return how many calls make a sample, and about how long one takes in microseconds."""
    call()
    count = 1
    while True:
        call_us = _sample_us(call, count, clock_ns)
        if call_us * count < _LONG_US:  # A disturbance makes a short call look long.
            call_us = min(call_us, _sample_us(call, count, clock_ns), _sample_us(call, count, clock_ns))
        if call_us * count >= _SAMPLE_AT_LEAST_US:
            return count, call_us
        count *= 2


def _sample_us(call: Callable[[], object], count: int, clock_ns: Callable[[], int]) -> float:
    start = clock_ns()
    for _ in itertools.repeat(None, count):
        call()
    return (clock_ns() - start) / 1000 / count


def _take_turn(
    call: Callable[[], object], timing: Timing, turn_s: float, clock_ns: Callable[[], int]
) -> None:
    samples: list[float] = []
    end = time.perf_counter() + turn_s
    while not samples or time.perf_counter() < end:
        samples.append(_sample_us(call, timing.calls_per_sample, clock_ns))
    timing.samples_us += samples
    timing.rounds_us.append(float(np.median(samples)))
