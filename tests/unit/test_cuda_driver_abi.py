"""Our declarations of the CUDA driver's C API against the official header, where one is installed."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from datasentinel import Detector, backend, libraries, pinned_empty
from datasentinel.errors import BackendUnavailableError
from tests.networks import Network, write_artifact

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def header() -> str:
    folders = [root / "include" for wheel in libraries._package_folders("nvidia") for root in wheel.glob("*")]
    folders += [Path(os.environ.get("CUDA_HOME", "/usr/local/cuda")) / "include"]
    for folder in folders:
        if (folder / "cuda.h").is_file():
            return (folder / "cuda.h").read_text(errors="replace")
    pytest.skip("no cuda.h here: install the wheel nvidia-cuda-runtime or a CUDA toolkit")


@pytest.fixture(scope="module")
def ours() -> str:
    return (ROOT / "csrc/backends/cuda/driver.h").read_text()


def declared_functions(ours: str) -> list[tuple[str, int]]:
    """Name and number of parameters of every function that we open."""
    body = ours[ours.index("#define DATASENTINEL_CUDA_FUNCTIONS(X)") :]
    body = body[: body.index("// clang-format on")].replace("\\\n", " ")
    entries = re.findall(r"X\((cu\w+),([^)]*)\)", body)
    return [(name, len(parameters.split(","))) for name, parameters in entries]


def test_every_function_is_exported_under_that_name(header, ours):
    functions = declared_functions(ours)
    assert len(functions) > 20
    # cuda.h renames a function whose signature has changed: `#define cuMemAlloc cuMemAlloc_v2`.
    pairs = re.findall(r"#define (cu\w+)\s+(?:__CUDA_API_\w+\()?(cu\w+)", header)
    exported = dict(reversed(pairs))
    plain_names = {symbol: plain for plain, symbol in exported.items()}
    for symbol, parameters in functions:
        plain = plain_names.get(symbol, symbol)
        assert exported.get(plain, plain) == symbol
        declaration = re.search(rf"CUresult CUDAAPI {plain}\(([^;]*)\);", header)
        assert declaration, f"{plain} is not in the header"
        assert len(declaration[1].split(",")) == parameters, symbol


def test_every_number_is_the_header_s(header, ours):
    declared = re.findall(r"constexpr (?:int|unsigned) \w+ = (\d+);\s*// (\w+)", ours)
    assert len(declared) == 14
    for value, name in declared:
        given = re.search(rf"\b{name}\s*=\s*(0x[0-9a-fA-F]+|\d+)", header)
        assert given, f"{name} is not in the header"
        assert int(given[1], 0) == int(value), name


def test_a_launch_s_configuration_has_the_header_s_members(header, ours):
    given = re.search(r"typedef struct CUlaunchConfig_st \{(.*?)\} CUlaunchConfig;", header, re.DOTALL)
    declared = re.search(r"struct LaunchConfig \{(.*?)\};", ours, re.DOTALL)
    without_comments = re.sub(r"/\*.*?\*/", "", given[1], flags=re.DOTALL)
    # One a line there, several in ours, each with its value.
    wanted = re.findall(r"(\w+);", without_comments)
    assert re.findall(r"(\w+) = ", declared[1]) == wanted


def test_without_a_driver_the_reason_is_told(tmp_path):
    status = next(status for status in backend.backends() if status.name == "fused-cuda")
    if status.availability == "available":
        pytest.skip("fused-cuda runs here")
    assert status.availability in {"no device", "library not found"}
    assert status.detail
    folder = write_artifact(tmp_path, Network.random([5, 2, 5]).to_onnx(), input_dim=5, threshold=1.0)
    with pytest.raises(BackendUnavailableError) as caught:
        Detector.load(folder, backend="fused-cuda")
    assert str(caught.value) == status.detail
    assert Detector.load(folder, plan_budget_s=0).info()["refusals"]["fused-cuda"].endswith(status.detail)
    if status.availability == "no device":
        with pytest.raises(BackendUnavailableError, match=r"no (NVIDIA driver|CUDA device)"):
            pinned_empty((3, 5))
