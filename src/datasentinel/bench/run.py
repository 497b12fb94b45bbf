"""Runs contenders on subjects: check the outputs, take times in turns, report."""

from __future__ import annotations

import datetime as dt
import functools
from typing import TYPE_CHECKING, Any

import numpy as np

from datasentinel.bench.contenders import BASELINE
from datasentinel.bench.machine import describe_machine
from datasentinel.bench.measure import Timing, measure_in_turns
from datasentinel.bench.report import Measurement, Report, median_share_of_peak, median_speedup
from datasentinel.bench.roof import measure_gflops, measure_roof
from datasentinel.bench.subject import disagreement

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from datasentinel.bench.contenders import Contender
    from datasentinel.bench.subject import Subject
    from datasentinel.types import Float32Array, Float64Array

DEFAULT_BATCHES = (1, 8, 64, 512, 1024, 8192)
# Long enough for many short runs, short beside a round.
_PEAK_S = 1e-3


def start_report(subjects: Sequence[Subject], settings: Mapping[str, Any]) -> Report:
    """Begin a report: describe the machine and measure its roof."""
    return Report(
        date=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        machine=describe_machine(),
        settings=dict(settings),
        roof=[
            {
                "isa": roof.isa,
                "gflops": roof.gflops,
                "l1_gb_s": roof.l1_gb_s,
                "l2_gb_s": roof.l2_gb_s,
                "memory_gb_s": roof.memory_gb_s,
            }
            for roof in measure_roof()
        ],
        models=[
            {
                "name": subject.name,
                "sha256": subject.sha256,
                "input_dim": subject.input_dim,
                "multiply_adds_per_row": subject.multiply_adds_per_row,
            }
            for subject in subjects
        ],
    )


def run_python_level(
    report: Report,
    subjects: Sequence[Subject],
    contenders: Sequence[Contender],
    *,
    batches: Sequence[int],
    budget_s: float,
    progress: Callable[[str], object] = lambda _text: None,
) -> None:
    """Measure calls from Python and add them to `report`.

    A contender that cannot run, fails, or returns other scores than the float64 reference is left out, with
    the reason in the report.

    Parameters
    ----------
    report : Report
        From `start_report`.
    subjects, contenders
        What is measured, and with what.
    batches : sequence of int
        Rows in a call.
    budget_s : float
        About how long to measure in all, shared evenly by models and batch sizes. Loading and checking come
        on top.
    progress : callable
        Called with what is measured next.
    """
    peak = functools.partial(measure_gflops, report.roof[0]["isa"], _PEAK_S)
    share_s = budget_s / (len(subjects) * len(batches))
    for contender in contenders:
        if contender.unavailable:
            _leave_out(report, "", contender.name, 0, contender.unavailable)
        else:
            report.contenders[f"python {contender.name}"] = contender.settings
    able = [contender for contender in contenders if not contender.unavailable]
    for subject in subjects:
        rows = subject.rows(max(batches) + 1)
        expected = subject.reference(rows)
        for batch in batches:
            progress(f"{subject.name}, {batch} rows")
            calls: dict[str, Callable[[], object]] = {}
            for contender in able:
                call, problem = prepare_checked(contender, subject, rows[: batch + 1], expected[: batch + 1])
                if call is None:
                    _leave_out(report, subject.name, contender.name, batch, problem)
                else:
                    calls[contender.name] = call
            if calls:
                timings = measure_in_turns(calls, budget_s=share_s, peak_gflops=peak)
                report.measurements += measurements_of(subject, "python", batch, timings, baseline=BASELINE)


def prepare_checked(
    contender: Contender, subject: Subject, rows: Float32Array, expected: Float64Array
) -> tuple[Callable[[], Float32Array] | None, str]:
    """Load a contender and check its scores.

    The call scores `len(rows) - 1` rows. It is checked with the last ones in its buffer, then with the first
    ones, so that a contender that remembers an answer instead of computing one is found out.

    Returns
    -------
    call : callable or None
        Scores the first rows; None when something is wrong.
    problem : str
        What is wrong; empty when nothing is.
    """
    buffer = rows[1:].copy()
    try:
        call = contender.prepare(subject, buffer)
        problem = disagreement(np.array(call()), expected[1:])
        buffer[:] = rows[:-1]
        problem = problem or disagreement(np.array(call()), expected[:-1])
    except Exception as error:  # A peer may raise anything; the report says what.
        return None, f"failed: {type(error).__name__}: {str(error).strip()[:500]}"
    return (None, problem) if problem else (call, "")


def measurements_of(
    subject: Subject, level: str, batch: int, timings: dict[str, Timing], *, baseline: str
) -> list[Measurement]:
    """Sum up the times of one batch size."""
    baseline_us = timings[baseline].rounds_us if baseline in timings else None
    multiply_adds = subject.multiply_adds_per_row
    measurements = []
    for name, timing in timings.items():
        p50, p90, p99 = (float(value) for value in np.quantile(timing.samples_us, (0.5, 0.9, 0.99)))
        measurements.append(
            Measurement(
                model=subject.name,
                level=level,
                contender=name,
                batch=batch,
                calls_per_sample=timing.calls_per_sample,
                samples=len(timing.samples_us),
                p50_us=p50,
                p90_us=p90,
                p99_us=p99,
                rows_per_s=1e6 * batch / p50,
                share_of_peak=median_share_of_peak(
                    timing.rounds_us, timing.peaks_gflops, multiply_adds and multiply_adds * batch
                ),
                speedup=median_speedup(timing.rounds_us, baseline_us),
                rounds_us=tuple(timing.rounds_us),
            )
        )
    return measurements


def _leave_out(report: Report, model: str, contender: str, batch: int, reason: str) -> None:
    entry = {"model": model, "level": "python", "contender": contender, "batch": batch, "reason": reason}
    report.left_out.append(entry)
