"""Scoring of files beside pyarrow's own reading and writing: CPU seconds, wall time and memory.

    python -m benchmarks.bench_files [--rows N] [--rounds N] [--memory-gb N] [--train] [--json FILE]

Each run is a process of its own, and the contenders take turns, so that a busy machine hurts all alike;
ratios are of the same round, and the median round counts. Imports and the loading of the model count for us,
as those of pyarrow do for it. The outputs are checked: a row for each row, the scores of `Detector.score`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from benchmarks.models import write_autoencoder
from datasentinel import Detector
from datasentinel.bench.machine import describe_machine

WIDTHS = (38, 16, 8, 16, 38)

READ_PARQUET = "for _ in pq.ParquetFile(source).iter_batches(65536): pass"
READ_CSV = "pa_csv.read_csv(source)"
WRITE_PARQUET = """
row, score = np.arange(rows), np.random.default_rng(0).random(rows, np.float32)
pq.write_table(pa.table({"row": row, "score": score, "anomaly": score > 0.9}), target)
"""
PYARROW = """
import sys
import numpy as np, pyarrow as pa, pyarrow.csv as pa_csv, pyarrow.parquet as pq
source, target, rows = sys.argv[1], sys.argv[2], int(sys.argv[3])
"""

OURS = """
import sys
from datasentinel.cli import cli
cli.main(sys.argv[1:], standalone_mode=False)
"""
# The kernel's own count: what wait4 gives knows the parent's memory, too.
PEAK = """
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""

# Input, output, what pyarrow does, and how much of its CPU time ours may take.
CASES = {
    "Parquet to Parquet": (".parquet", ".parquet", PYARROW + READ_PARQUET + WRITE_PARQUET, 1.3),
    "CSV to Parquet": (".csv", ".parquet", PYARROW + READ_CSV, 1.3),
    "CSV to CSV": (".csv", ".csv", PYARROW + READ_CSV, 2.0),
}


@dataclass(frozen=True)
class Run:
    """What a process took."""

    cpu_s: float
    wall_s: float
    peak_mib: float

    @classmethod
    def of(cls, code: str, *arguments: str | Path) -> Run:
        start = time.perf_counter()
        with subprocess.Popen(
            [sys.executable, "-c", code + PEAK, *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        ) as process:
            assert process.stdout is not None
            told = process.stdout.read()
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        if status:
            raise SystemExit(f"{arguments} failed")
        wall_s = time.perf_counter() - start
        return cls(usage.ru_utime + usage.ru_stime, wall_s, int(told.split()[-1]) / 1024)


def write_data(folder: Path, rows: int) -> None:
    values = np.round(np.random.default_rng(0).normal(size=(rows, WIDTHS[0])), 4)
    table = pa.table({f"m{i:02}": values[:, i] for i in range(WIDTHS[0])})
    pq.write_table(table, folder / "data.parquet")
    pa_csv.write_csv(table, folder / "data.csv", pa_csv.WriteOptions(quoting_style="none"))


def score(folder: Path, source: str, target: str, *options: str) -> list[str | Path]:
    return [
        "score",
        folder / f"data{source}",
        "--model",
        folder / "model",
        "--out",
        folder / f"scores{target}",
        *options,
    ]


def check(folder: Path, target: str, rows: int) -> None:
    path = folder / f"scores{target}"
    table = pq.read_table(path) if target == ".parquet" else pa_csv.read_csv(path)
    assert table.column("row").to_pylist() == list(range(rows))
    head = next(pq.ParquetFile(folder / "data.parquet").iter_batches(10_000))
    values = np.column_stack([column.to_numpy() for column in head.columns]).astype(np.float32)
    expected = Detector.load(folder / "model").score(values)
    found = table.column("score").to_numpy()[: len(expected)].astype(np.float32)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def measure(folder: Path, rows: int, rounds: int) -> list[dict[str, object]]:
    results = []
    for name, (source, target, rival, bar) in CASES.items():
        ours, all_threads, theirs = [], [], []
        for _ in range(rounds):
            theirs.append(Run.of(rival, folder / f"data{source}", folder / "other", str(rows)))
            ours.append(Run.of(OURS, *score(folder, source, target, "--threads", "1")))
            all_threads.append(Run.of(OURS, *score(folder, source, target)))
        check(folder, target, rows)
        ratios = [mine.cpu_s / other.cpu_s for mine, other in zip(all_threads, theirs, strict=True)]
        results.append(
            {
                "case": name,
                "cpu_s": statistics.median(run.cpu_s for run in all_threads),
                "pyarrow_cpu_s": statistics.median(run.cpu_s for run in theirs),
                "ratio": statistics.median(ratios),
                "bar": bar,
                "wall_s": statistics.median(run.wall_s for run in all_threads),
                "wall_s_one_thread": statistics.median(run.wall_s for run in ours),
                "peak_mib": max(run.peak_mib for run in all_threads),
            }
        )
        print(
            "{case:<20} {cpu_s:6.2f} s CPU, pyarrow {pyarrow_cpu_s:6.2f} s, ratio {ratio:5.2f} (bar {bar}), "
            "wall {wall_s:6.2f} s, one thread {wall_s_one_thread:6.2f} s, {peak_mib:5.0f} MiB".format(
                **results[-1]
            ),
            flush=True,
        )
    return results


def measure_memory(folder: Path, gigabytes: float) -> dict[str, object]:
    """Score the CSV file as often as it takes to have read so much."""
    data = folder / "data.csv"
    times = max(1, round(gigabytes * 1e9 / data.stat().st_size))
    files = [data] * times
    run = Run.of(OURS, "score", *files, "--model", folder / "model", "--out", folder / "scores.parquet")
    result = {"gigabytes": times * data.stat().st_size / 1e9, **asdict(run)}
    print("{gigabytes:.1f} GB of CSV: {peak_mib:.0f} MiB, {cpu_s:.1f} s CPU, {wall_s:.1f} s".format(**result))
    return result


def measure_training(folder: Path) -> dict[str, object]:
    run = Run.of(OURS, "train", folder / "data.parquet", "--out", folder / "trained", "--max-rows", "1000000")
    print(
        f"train on 1,000,000 x {WIDTHS[0]}: {run.wall_s:.1f} s, {run.cpu_s:.1f} s CPU, {run.peak_mib:.0f} MiB"
    )
    return asdict(run)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_012_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory-gb", type=float, default=0.0)
    parser.add_argument("--train", action="store_true")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_data(folder, arguments.rows)
        write_autoencoder(folder / "model", WIDTHS)
        Detector.load(folder / "model")  # From here on the plan is remembered.
        report: dict[str, object] = {
            "machine": describe_machine(),
            "rows": arguments.rows,
            "columns": WIDTHS[0],
            "cases": measure(folder, arguments.rows, arguments.rounds),
        }
        if arguments.memory_gb:
            report["memory"] = measure_memory(folder, arguments.memory_gb)
        if arguments.train:
            report["training"] = measure_training(folder)
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
