"""The simulated device, built once."""

from __future__ import annotations

import pytest

from tests.cuda_on_cpu import SimulatedDevice, build


@pytest.fixture(scope="session")
def device(tmp_path_factory) -> SimulatedDevice:
    return build(tmp_path_factory.mktemp("cuda_on_cpu"))
