"""The driver, and that nothing stays behind on the device."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from tests.cuda_on_cpu.libcuda import Cuda


@pytest.fixture
def cuda() -> Iterator[Cuda]:
    cuda = Cuda()
    yield cuda
    cuda.fail("")


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Look for leaks when no test holds anything any more."""
    gc.collect()
    leaks = Cuda().leaks()
    if leaks and session.exitstatus == pytest.ExitCode.OK:
        print("\nleft on the device:", *leaks, sep="\n")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
