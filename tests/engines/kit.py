"""What both engines are tried on: files with bad rows, and what `datasentinel score` says of them."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from click.testing import CliRunner

from datasentinel.artifact import load_artifact
from datasentinel.calibration import Calibration, calibrate
from datasentinel.cli import cli
from datasentinel.detector import Detector
from tests.recordings import oscillations

D = 8
ROWS_A_FILE = 2_000
FILES = 12


def write_tables(folder: Path, network_rows: np.ndarray) -> Path:
    """Write rows [N, D] to files, with a key, a host, text to keep, and rows that cannot be scored."""
    folder.mkdir()
    random = np.random.default_rng(7)
    for number in range(FILES):
        values = network_rows[random.integers(0, len(network_rows), ROWS_A_FILE)].astype(np.float64)
        values[::97, 2] = np.nan
        values[5::311, 3] = 1e300
        columns = {f"f{i}": pa.array(values[:, i]) for i in range(D)}
        missing = np.arange(ROWS_A_FILE) % 499 == 0
        columns["f5"] = pa.array(values[:, 5], mask=missing)
        columns["host"] = pa.array([f"host-{i % 7}" for i in range(ROWS_A_FILE)]).dictionary_encode()
        columns["key"] = pa.array(np.arange(ROWS_A_FILE) + number * ROWS_A_FILE)
        pq.write_table(pa.table(columns), folder / f"{number:02}.parquet")
    return folder


def write_recordings(folder: Path, series: int = 5, rows: int = 400) -> Path:
    """Write recordings of several hosts by turns to files, in order of time; some rows cannot be scored."""
    folder.mkdir()
    recordings = [oscillations(rows, seed=seed).astype(np.float64) for seed in range(series)]
    values = np.stack(recordings, axis=1).reshape(rows * series, -1)
    values[333::401, 1] = np.nan
    time_us = np.repeat(np.arange(rows) * 1_000_000 + 1_700_000_000_000_000, series)
    table = pa.table(
        {
            **{f"f{i}": values[:, i] for i in range(values.shape[1])},
            "ts": pa.array(time_us, pa.timestamp("us", tz="UTC")),
            "host": [f"host-{i % series}" for i in range(len(values))],
            "key": np.arange(len(values)),
        }
    )
    for number in range(4):
        part = len(table) // 4
        pq.write_table(table.slice(number * part, part), folder / f"{number}.parquet")
    return folder


def score_in_one_process(folder: Path, model: Path, *options: str) -> pa.Table:
    """Return what the command line says, in the order of `key`."""
    out = folder.parent / "one-process.parquet"
    done = CliRunner().invoke(
        cli,
        [
            "score",
            str(folder),
            "--model",
            str(model),
            "--backend",
            "fused",
            "--out",
            str(out),
            "--keep",
            "key",
            *options,
        ],
    )
    assert done.exit_code == 0, done.output
    return pq.read_table(out).sort_by("key")


def assert_same(scored: pa.Table, expected: pa.Table) -> None:
    """Compare rows in the order of `key`: all columns but `row`, errors without the place that they begin with."""
    scored = scored.sort_by("key")
    assert scored.column_names == expected.column_names[1:]
    assert scored.num_rows == expected.num_rows
    errors = [text and text.partition("column")[2] for text in expected["error"].to_pylist()]
    assert [text and text.partition("column")[2] for text in scored["error"].to_pylist()] == errors
    assert sum(text is not None for text in errors) > 0
    for name in scored.column_names:
        if name != "error":
            assert scored[name].to_pylist() == expected[name].to_pylist(), name


def calibrated_in_one_process(
    folder: Path, model: Path, trained_on: pa.Table, target_fpr: float
) -> Calibration:
    """Calibrate on all rows of files that can be scored, but those of a sample, by the scores themselves."""
    table = pq.read_table(folder)
    values = np.column_stack([table[f"f{i}"].to_numpy() for i in range(D)])
    left = ~np.isin(table["key"].to_numpy(), trained_on["key"].to_numpy())
    rows = values[left & (np.abs(values) < 1e30).all(axis=1)].astype(np.float32)
    scores = Detector.load(model, backend="fused").score(rows)
    return calibrate(scores, method="conformal", target_fpr=target_fpr)


def assert_same_calibration(found: Calibration, expected: Calibration, model: Path) -> None:
    assert found.threshold == expected.threshold == load_artifact(model).config.threshold
    assert (found.rows, found.fpr_bound) == (expected.rows, expected.fpr_bound)
    assert len(found.features) == D


def kill_one_of_ours(command: str, timeout_s: float = 120.0) -> int:
    """Kill a process that this one started, directly or not, by a word of its command line; return its id."""
    import psutil

    until = time.monotonic() + timeout_s
    while time.monotonic() < until:
        for process in psutil.Process().children(recursive=True):
            try:
                if command in " ".join(process.cmdline()):
                    os.kill(process.pid, 9)
                    return process.pid
            except (psutil.NoSuchProcess, ProcessLookupError):
                continue
        time.sleep(0.1)
    raise AssertionError(f"no process '{command}' of ours")
