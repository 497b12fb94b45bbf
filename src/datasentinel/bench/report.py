"""The result of a run as plain data, and its JSON file."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from datasentinel.atomic_file import overwriting
from datasentinel.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path

FORMAT_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """The times of one contender on one model and batch size.

    Attributes
    ----------
    model, contender : str
        Who scored what.
    level : str
        "python" for calls from Python, "c++" for calls from C++.
    batch : int
        Rows in a call.
    calls_per_sample, samples : int
        The percentiles are over `samples` samples; a sample is the mean of `calls_per_sample` calls.
    p50_us, p90_us, p99_us : float
        Latency of a call in microseconds.
    rows_per_s : float
        `batch` divided by the median latency.
    share_of_peak : float or None
        Arithmetic done per second by the core's multiply-add peak of the same round, median over the rounds.
    speedup : float or None
        The baseline's time divided by this one's in the same round, median over the rounds; None without a
        baseline.
    rounds_us : tuple of float
        The median latency of each round.
    """

    model: str
    level: str
    contender: str
    batch: int
    calls_per_sample: int
    samples: int
    p50_us: float
    p90_us: float
    p99_us: float
    rows_per_s: float
    share_of_peak: float | None
    speedup: float | None
    rounds_us: tuple[float, ...]

    @property
    def key(self) -> tuple[str, str, str, int]:
        """What makes two measurements comparable."""
        return self.model, self.level, self.contender, self.batch


@dataclass(kw_only=True)
class Report:
    """A whole run.

    Attributes
    ----------
    date : str
        When it began, ISO 8601, UTC.
    machine : dict
        Machine and versions.
    settings : dict
        How the run was asked for.
    roof : list of dict
        What a core can do at most, one entry per instruction set.
    models : list of dict
        `name`, `sha256`, `input_dim`, `multiply_adds_per_row`.
    contenders : dict
        Level and name → settings in words.
    left_out : list of dict
        `model`, `level`, `contender`, `batch` (0: all) and `reason`.
    measurements : list of Measurement
    """

    date: str
    machine: dict[str, Any]
    settings: dict[str, Any]
    roof: list[dict[str, Any]]
    models: list[dict[str, Any]]
    contenders: dict[str, str] = field(default_factory=dict)
    left_out: list[dict[str, Any]] = field(default_factory=list)
    measurements: list[Measurement] = field(default_factory=list)


def median_share_of_peak(
    rounds_us: list[float], peaks_gflops: list[float], multiply_adds: int | None
) -> float | None:
    """Divide the arithmetic per second by the peak of the same round, median over the rounds."""
    if multiply_adds is None:
        return None
    gflops = 2e-3 * multiply_adds / np.asarray(rounds_us)
    return float(np.median(gflops / np.asarray(peaks_gflops)))


def median_speedup(rounds_us: list[float], baseline_us: list[float] | None) -> float | None:
    """Divide the baseline's time by this one's in the same round, median over the rounds."""
    if baseline_us is None:
        return None
    return float(np.median(np.asarray(baseline_us) / np.asarray(rounds_us)))


def save_report(report: Report, path: Path) -> None:
    """Write a report as JSON.

    Raises
    ------
    DataError
        The file cannot be written.
    """
    document = {"format_version": FORMAT_VERSION} | dataclasses.asdict(report)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with overwriting(path) as file:
            file.write(json.dumps(document, indent=1, allow_nan=False).encode() + b"\n")
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror or error}") from error


def load_report(path: Path) -> Report:
    """Read a report.

    Raises
    ------
    DataError
        The file cannot be read, or is not a benchmark report of this version.
    """
    try:
        document = json.loads(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not JSON: {error}") from error
    if not isinstance(document, dict) or document.pop("format_version", None) != FORMAT_VERSION:
        raise DataError(f"{path}: no benchmark report with format_version {FORMAT_VERSION}")
    try:
        measurements = [_measurement(entry) for entry in document.pop("measurements")]
        return Report(**document, measurements=measurements)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: not a sound benchmark report: {error}") from error


def _measurement(entry: dict[str, Any]) -> Measurement:
    measurement = Measurement(**entry | {"rounds_us": tuple(entry["rounds_us"])})
    for value in (measurement.p50_us, *measurement.rounds_us):
        if not 0 < value < math.inf:
            raise ValueError(f"a time must be a finite number above 0, got {value!r}")
    if not measurement.rounds_us:
        raise ValueError(f"{measurement.contender} has no rounds")
    return measurement
