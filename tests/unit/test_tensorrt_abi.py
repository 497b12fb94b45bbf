"""Our declarations of TensorRT's C++ ABI against the official headers, where they are."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CANDIDATES = [
    os.environ.get("DATASENTINEL_TENSORRT_HEADERS", ""),
    "/usr/include/x86_64-linux-gnu",
    "/usr/include/aarch64-linux-gnu",
    "/usr/local/tensorrt/include",
    "/opt/tensorrt/include",
]
# All that the headers need of CUDA's.
CUDA_STAND_IN = "typedef struct CUstream_st* cudaStream_t;\ntypedef struct CUevent_st* cudaEvent_t;\n"


@pytest.fixture(scope="module")
def headers() -> Path:
    for candidate in CANDIDATES:
        if candidate and (Path(candidate) / "NvOnnxParser.h").is_file():
            return Path(candidate)
    pytest.skip(
        "no NvOnnxParser.h here: name the folder of TensorRT 11's headers (the directory include of "
        "NVIDIA/TensorRT) in DATASENTINEL_TENSORRT_HEADERS"
    )


def test_every_function_and_number_is_the_headers_own(headers, tmp_path):
    compiler = shutil.which("c++")
    if compiler is None:
        pytest.skip("no C++ compiler `c++` on the PATH")
    (tmp_path / "cuda_runtime_api.h").write_text(CUDA_STAND_IN)
    program = tmp_path / "tensorrt_abi"
    command = [compiler, "-std=c++20", "-w", f"-I{ROOT / 'csrc'}", f"-I{headers}", f"-I{tmp_path}"]
    compiled = subprocess.run(
        [*command, str(ROOT / "tests/cpp/tensorrt_abi.cpp"), "-o", str(program)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert compiled.returncode == 0, compiled.stderr
    run = subprocess.run([str(program)], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout
    declared = (ROOT / "csrc/backends/tensorrt/api.h").read_text()
    methods = set(
        re.findall(r"virtual [^;~]*?(\w+)\([^;]*\)(?: const)?(?: noexcept)?(?: = 0;| \{)", declared)
    )
    source = (ROOT / "tests/cpp/tensorrt_abi.cpp").read_text()
    assert len(methods) > 40
    assert not {method for method in methods if not re.search(rf"\b{method}\b", source)}
