"""What the pytest-benchmark suites share: `python -m pytest benchmarks/ --benchmark-only`."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np
import pytest

from benchmarks.models import subject
from datasentinel.bench.report import median_share_of_peak
from datasentinel.bench.roof import measure_gflops, measure_roof
from datasentinel.bench.run import DEFAULT_BATCHES

if TYPE_CHECKING:
    from collections.abc import Callable

    from datasentinel.bench.subject import Subject


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--case-s", type=float, default=0.3, help="seconds to measure each case (default: 0.3)")
    parser.addoption(
        "--batches",
        type=lambda text: tuple(int(size) for size in text.split(",")),
        default=DEFAULT_BATCHES,
        help="rows in a call (default: 1,8,64,512,1024,8192)",
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "batch" in metafunc.fixturenames:
        metafunc.parametrize("batch", metafunc.config.getoption("--batches"))


@pytest.fixture(scope="session")
def case_s(request: pytest.FixtureRequest) -> float:
    """Seconds to measure each case."""
    return request.config.getoption("--case-s")


@pytest.fixture(scope="session")
def subjects(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Subject]:
    """The models by size, each written once."""
    folder = tmp_path_factory.mktemp("models")
    return functools.cache(lambda size: subject(size, folder))


@pytest.fixture(scope="session")
def peak_gflops() -> Callable[[], float]:
    """Measures the core's multiply-add peak with its most capable instruction set."""
    isa = measure_roof()[0].isa
    return lambda: measure_gflops(isa, 1e-3)


def note(benchmark, subject: Subject, batch: int, samples_us: list[float], peaks: list[float]) -> None:
    """Add percentiles, rows/s and share of peak to a pytest-benchmark result."""
    p50, p90, p99 = (float(value) for value in np.quantile(samples_us, (0.5, 0.9, 0.99)))
    share = median_share_of_peak([p50], [float(np.median(peaks))], subject.multiply_adds_per_row * batch)
    benchmark.extra_info.update(
        p50_us=p50, p90_us=p90, p99_us=p99, rows_per_s=1e6 * batch / p50, share_of_peak=share
    )
