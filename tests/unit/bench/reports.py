"""Reports made by hand."""

from __future__ import annotations

from collections.abc import Iterable

from datasentinel.bench.report import Measurement, Report

ROOF = {"isa": "avx2", "gflops": 100.0, "l1_gb_s": 200.0, "l2_gb_s": 100.0, "memory_gb_s": 20.0}


def measurement(rounds_us: Iterable[float], contender: str = "fused", batch: int = 1) -> Measurement:
    rounds = tuple(rounds_us)
    return Measurement(
        model="m", level="python", contender=contender, batch=batch, calls_per_sample=2, samples=len(rounds),
        p50_us=rounds[len(rounds) // 2], p90_us=max(rounds), p99_us=max(rounds), rows_per_s=1.0,
        share_of_peak=None, speedup=None, rounds_us=rounds,
    )  # fmt: skip


def report(*measurements: Measurement, **changes: object) -> Report:
    fields = {
        "date": "2026-01-01T00:00:00+00:00",
        "machine": {"cpu": "a cpu", "cores": 2, "load_before": 0.5, "versions": {"python": "3.11"}},
        "settings": {"batches": [1]},
        "roof": [ROOF],
        "models": [{"name": "m", "sha256": "ab", "input_dim": 8, "multiply_adds_per_row": 132}],
        "measurements": list(measurements),
    }
    return Report(**(fields | changes))
