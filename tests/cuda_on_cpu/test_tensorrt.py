"""The tensorrt backend on the simulated device, with a TensorRT whose engines all give the same score."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.networks import Network, write_artifact

_ROOT = Path(__file__).parents[2]

SCRIPT = """
import json, sys
import numpy as np
from datasentinel import Detector
from tests.cuda_on_cpu.libcuda import Cuda, error_of

folder, fault = sys.argv[1:]
detector = Detector.load(folder, backend="tensorrt")
few, many = np.zeros((3, 33), np.float32), np.zeros((500, 33), np.float32)
scores = [*detector.score(few), *detector.score(few), *detector.score(many)]
cuda = Cuda()
cuda.fail(fault)
error = error_of(detector.score, few if "cuGraphLaunch" in fault else many[:50])
cuda.fail("")
later = error_of(detector.score, few) or error_of(detector.score, many[:50])
if later is None:
    scores += [*detector.score(few), *detector.score(many[:50])]
tell = lambda error: error and f"{type(error).__name__}: {error}"
print(json.dumps({"scores": sorted(set(map(float, scores))), "error": tell(error), "later": tell(later)}))
"""


@pytest.fixture(scope="module")
def library(device) -> Path:
    path = device.folder / "libnvinfer.so.11"
    source = Path(__file__).with_name("nvinfer.cpp")
    command = ["c++", "-std=c++20", "-w", "-shared", "-fPIC", f"-I{_ROOT / 'csrc'}", "-o", str(path)]
    subprocess.run([*command, str(source), "-ldl"], check=True, timeout=300)
    path.with_name("libnvonnxparser.so.11").symlink_to(path)
    return path


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (
            "cuMemcpyHtoDAsync_v2:1=2",
            "OutOfMemoryError: copying rows to the device: CUDA says: out of memory",
        ),
        ("cuMemcpyHtoDAsync_v2:2=2", "BackendError: running the engine: TensorRT 11.4.0 says: "),
        ("cuGraphLaunch:1=999", "BackendError: launching a CUDA graph: CUDA says: error 999"),
    ],
)
def test_an_error_that_passes_does_not_end_the_session(device, library, tmp_path, fault, error):
    answer = scored(device, library, tmp_path, fault)
    assert answer == {"scores": [0.5], "error": error, "later": None}


def test_an_error_that_stays_ends_the_session(device, library, tmp_path):
    answer = scored(device, library, tmp_path, "cuStreamSynchronize:2=700")
    assert answer["scores"] == [0.5]
    assert answer["error"].startswith("BackendError: running the engine: CUDA says: an illegal memory access")
    assert answer["later"] == "BackendError: tensorrt: this session failed before; load the model again"


def scored(device, library: Path, folder: Path, fault: str) -> dict:
    onnx_bytes = Network.random([33, 4, 33]).to_onnx()
    model = write_artifact(folder / "model", onnx_bytes, input_dim=33, threshold=1.0)
    environment = device.environment(memory_mib=64) | {
        "DATASENTINEL_TENSORRT_LIBRARY": str(library),
        "DATASENTINEL_CACHE_DIR": str(folder / "cache"),
    }
    done = device.run("-c", SCRIPT, str(model), fault, environment=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])
