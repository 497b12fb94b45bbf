from __future__ import annotations

import functools
import os
import platform
from typing import TYPE_CHECKING

import pytest

from datasentinel.errors import BackendUnavailableError
from tests.networks import Network
from tests.parity.fused_scorer import load

if TYPE_CHECKING:
    from collections.abc import Iterator


@functools.cache
def supported(isa: str) -> bool:
    before = os.environ.get("DATASENTINEL_ISA")
    os.environ["DATASENTINEL_ISA"] = isa
    try:
        load(Network.random([2, 1, 2]).to_onnx(), dim=2)
    except BackendUnavailableError:
        return False
    finally:
        os.environ.pop("DATASENTINEL_ISA")
        if before is not None:
            os.environ["DATASENTINEL_ISA"] = before
    return True


_ISAS = {"x86_64": ("avx512", "avx2", "portable"), "aarch64": ("neon", "portable")}


@pytest.fixture(params=_ISAS.get(platform.machine(), ("portable",)))
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each instruction set of this processor, which models are then loaded for."""
    if not supported(request.param):
        pytest.skip(f"this processor has no {request.param}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DATASENTINEL_ISA", request.param)
        yield request.param
