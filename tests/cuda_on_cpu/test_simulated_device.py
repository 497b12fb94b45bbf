"""The whole fused-cuda backend in processes that have the simulated device."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import numpy as np
import pytest

from tests.networks import Network, write_artifact

FOLDER = "tests/cuda_on_cpu"
NETWORK = Network.random([33, 17, 9, 33])
# What takes a CPU too long: the largest batches of the wider networks, and many calls of the widest.
QUICK = "not (128 and (65536 or 300001 or several_threads)) and not (17 and 300001)"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    onnx_bytes = NETWORK.to_onnx(with_contributions=True)
    return write_artifact(tmp_path_factory.mktemp("model"), onnx_bytes, input_dim=33, threshold=1.0)


def test_the_tests_marked_gpu_pass(device, tmp_path, monkeypatch):
    monkeypatch.setenv("DATASENTINEL_TENSOR_CORES", "mma")  # A trial takes a CPU too long.
    outcomes = device.run_tests(
        tmp_path / "report.xml", "tests/parity/test_cuda_device.py", "-m", "gpu", "-k", QUICK
    )
    skipped = {test: reason for test, reason in outcomes.items() if reason != "passed"}
    # Only what takes memory, or puts rows on the device, by a torch that has CUDA.
    assert all("torch" in reason for reason in skipped.values()), skipped
    assert len(skipped) <= 4
    assert len(outcomes) - len(skipped) >= 20


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_streams_memory_and_rows_on_the_device(device, tmp_path, seed):
    """Once with work done only when it must, once as a generator wants."""
    tests = [f"{FOLDER}/inside/device_rows.py", f"{FOLDER}/inside/chunks.py"]
    outcomes = device.run_tests(tmp_path / "report.xml", *tests, seed=seed, memory_mib=256)
    assert set(outcomes.values()) == {"passed"}
    assert len(outcomes) >= 50


@pytest.mark.parametrize(
    ("capability", "clusters"),
    [
        ("9.0", 2),
        ("9.0", 0),
        *(pytest.param(*slow, marks=pytest.mark.slow) for slow in [("9.0", 1), ("8.0", 2)]),
    ],
)
def test_a_few_rows_of_wide_layers(device, tmp_path, capability, clusters):
    """Of the whole device, of a part without room for a cluster, and of one that has none."""
    tests = f"{FOLDER}/inside/wide_layers.py"
    outcomes = device.run_tests(
        *(tmp_path / "report.xml", tests),
        capability=capability,
        multiprocessors=16,
        most_clusters=clusters,
        memory_mib=256,
    )
    assert set(outcomes.values()) == {"passed"}
    assert len(outcomes) >= 6


@pytest.mark.parametrize("settings", [{}, {"wrong_wgmma": 1}], ids=["right", "wrong"])
def test_the_instructions_of_the_tensor_cores_are_chosen(device, tmp_path, settings):
    outcomes = device.run_tests(
        *(tmp_path / "report.xml", f"{FOLDER}/inside/tensor_cores.py"),
        multiprocessors=1,
        memory_mib=256,
        **settings,
    )
    assert len([outcome for outcome in outcomes.values() if outcome == "passed"]) == (6 if settings else 8)


LOAD_BF16 = """
import sys
from datasentinel import Detector
print(Detector.load(sys.argv[1], backend="fused-cuda", precision="bf16").info()["facts"]["tensor cores"])
"""


def test_an_error_that_stays_is_met_once(device, tmp_path):
    folder = write_artifact(
        tmp_path / "model", Network.random([33, 50, 20, 33]).to_onnx(), input_dim=33, threshold=1.0
    )
    environment = device.environment(multiprocessors=1) | {"DATASENTINEL_CACHE_DIR": str(tmp_path / "cache")}
    # Two launches are those of mma; then comes an illegal instruction.
    faulty = environment | {"CUDA_ON_CPU_FAIL": "cuLaunchKernel:3=715"}
    done = device.run("-c", LOAD_BF16, str(folder), environment=faulty)
    assert "CUDA works no more in this process" in done.stderr
    assert "start another, which will not try it" in done.stderr
    done = device.run("-c", LOAD_BF16, str(folder), environment=environment)
    assert done.stdout == "mma: a trial of wgmma did not end, or has not yet\n", done.stderr


@pytest.mark.parametrize("code", [pytest.param(999, marks=pytest.mark.slow), 719], ids=["passing", "sticky"])
def test_an_error_of_any_call_is_typed_and_leaks_nothing(device, tmp_path, code):
    # A failing load compiles once more, so the kernel is a small one.
    onnx_bytes = Network.random([7, 4, 7]).to_onnx(with_contributions=True)
    folder = write_artifact(tmp_path, onnx_bytes, input_dim=7, threshold=1.0)
    done = device.run(f"{FOLDER}/every_call.py", str(folder), str(code), memory_mib=64)
    assert done.returncode == 0, done.stdout + done.stderr
    calls, *wrong = done.stdout.splitlines()
    assert not wrong, done.stdout
    assert int(calls) > 50


FAILOVER = """
import json, sys
from pathlib import Path
import numpy as np
from datasentinel import Detector, plan_cache
from datasentinel.errors import BackendError
from tests.cuda_on_cpu.libcuda import Cuda, error_of

folder, how = sys.argv[1:]
rows = np.linspace(-2, 2, 500 * 33, dtype=np.float32).reshape(500, 33)
Detector.load(folder, plan_budget_s=0.1)  # Measures the plan, which is then made to prefer the device.
(path,) = (plan_cache.cache_dir() / "plans").glob("*.json")
path.write_text(json.dumps(json.loads(path.read_text()) | {"steps": [[1, "fused-cuda"]]}))

class Nowhere:
    __cuda_array_interface__ = {"shape": (500,), "typestr": "<f4", "data": (16, False), "version": 3}

class Rows:
    def __init__(self, address):
        self.__cuda_array_interface__ = {
            "shape": rows.shape, "typestr": "<f4", "data": (address, False), "version": 3}

cuda = Cuda()
detector = Detector.load(folder)
before = detector.score(rows)
raised = None
if how == "kernel":
    # The kernel writes to an address that is nobody's.
    raised = repr(error_of(detector.score, Rows(cuda.upload(rows)), Nowhere()))
else:
    cuda.fail(how)
after = detector.score(rows)
again = detector.score(rows)
reloaded = repr(error_of(lambda: Detector.load(folder, backend="fused-cuda")))
info = detector.info()
print(json.dumps({"plan": info["plan"], "facts": info["facts"], "raised": raised, "reloaded": reloaded,
                  "right": bool(np.allclose(before, after, rtol=5e-5) and np.allclose(after, again))}))
"""


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("kernel", "load the model again"),
        ("cuLaunchKernel:1=719", "launching the kernel: CUDA says: unspecified launch failure"),
        (
            "cuStreamSynchronize:1=700",
            "running the kernel: CUDA says: an illegal memory access was encountered",
        ),
        ("cuMemcpyHtoDAsync_v2:1=2", "copying rows to the device: CUDA says: out of memory"),
    ],
)
def test_a_failure_while_serving_is_answered_by_the_next_backend(device, folder, tmp_path, how, words):
    environment = device.environment(memory_mib=128) | {"DATASENTINEL_CACHE_DIR": str(tmp_path)}
    done = device.run("-c", FAILOVER, str(folder), how, environment=environment)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    assert answer["plan"] == {"1": "fused-cuda"}
    assert answer["right"]
    assert answer["facts"]["fused-cuda"].startswith("failed while serving; not used any more: ")
    assert words in answer["facts"]["fused-cuda"]
    if how == "kernel":
        assert "an illegal memory access was encountered" in answer["raised"]
    # The device is lost to the process, unless only memory was short.
    assert ("CUDA says" in answer["reloaded"]) == (not how.endswith("=2"))


CACHE = """
import json, sys
from pathlib import Path
import numpy as np
from datasentinel import Detector, plan_cache
from tests.cuda_on_cpu.libcuda import Cuda, error_of

folder, fault = sys.argv[1:]
cuda = Cuda()
cuda.fail(fault)

def load():
    detector = Detector.load(folder, backend="fused-cuda")
    return float(detector.score(np.zeros(33, np.float32))[0])

score = None
def keep():
    global score
    score = load()
error = error_of(keep)
files = {path.name: path.stat().st_mtime_ns for path in (plan_cache.cache_dir() / "engines").glob("*.engine")}
print(json.dumps({"score": score, "error": error and f"{type(error).__name__}: {error}", "files": files,
                  "loads": cuda.calls("cuModuleLoadData")}))
"""


def test_kernels_are_kept_and_rebuilt_when_they_do_not_load(device, folder, tmp_path):
    expected = NETWORK.reference(np.zeros((1, 33)))[0][0]

    def load(fault: str = "", **settings: object) -> dict:
        environment = device.environment(memory_mib=128, **settings) | {
            "DATASENTINEL_CACHE_DIR": str(tmp_path)
        }
        done = device.run("-c", CACHE, str(folder), fault, environment=environment)
        assert done.returncode == 0, done.stderr
        answer = json.loads(done.stdout)
        if answer["error"] is None:
            assert answer["score"] == pytest.approx(expected, rel=5e-5)
        return answer

    first = load()
    assert first["loads"] == 1
    (name,) = first["files"]
    path = tmp_path / "engines" / name
    assert load()["files"] == first["files"]

    # The device refuses the kept one: it is built once more, and replaced.
    second = load("cuModuleLoadData:1=209")
    assert second["loads"] == 2
    assert second["files"].keys() == first["files"].keys()
    assert second["files"] != first["files"]
    # It refuses the new one, too: that is final.
    refused = load("cuModuleLoadData:1=209,cuModuleLoadData:2=209")
    assert refused["error"].startswith("BackendError: ")
    assert "loading the kernel: CUDA says: no kernel image is available" in refused["error"]
    assert refused["loads"] == 2
    load()

    # No memory says nothing about the kernel.
    kept = load()["files"]
    starved = load("cuMemAlloc_v2:1=2")
    assert starved["error"].startswith("OutOfMemoryError: ")
    assert starved["files"] == kept

    # A file cut short is not handed to the device.
    path.write_bytes(path.read_bytes()[:-100])
    assert load()["loads"] == 1
    assert load()["files"] != kept

    # Another GPU, and another driver's kernel under the right name.
    assert len(load(name="Another GPU")["files"]) == 2
    assert len(load(capability="8.6")["files"]) == 3


MEASURE = """
import json, sys
from pathlib import Path
from benchmarks.gpu.contenders import our_contenders
from benchmarks.gpu.worker import Task, measure_model
from benchmarks.models import SMALL, write_autoencoder

folder = write_autoencoder(Path(sys.argv[1]), SMALL, name="small")
cases = [(1, "host", "fused-cuda"), (1, "device", "fused-cuda"), (1, "device", "fused-cuda, no wait")]
task = Task("model", -1, "cuda", 3600.0, "small", str(folder), [1], cases=cases)
messages = []
measure_model(task, our_contenders(), messages.append)
print(json.dumps([message["result"] for message in messages if "result" in message]))
"""


def test_the_contenders_of_the_gpu_check_run_on_it(device, tmp_path):
    done = device.run("-c", MEASURE, str(tmp_path / "small"), memory_mib=256)
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout.splitlines()[-1])
    assert len(results) == 3
    for result in results:
        assert result["p50_us"] > 0, result


@pytest.mark.slow  # Its workers have so many seconds for each thing.
def test_the_check_of_a_machine_runs_on_it(device, tmp_path):
    """From the command line to the table, for the aims that a CPU is fast enough for."""
    nvidia_smi = tmp_path / "nvidia-smi"
    nvidia_smi.write_text("#!/bin/sh\necho CUDA on a CPU, 580.0\n")
    nvidia_smi.chmod(0o755)
    environment = device.environment(memory_mib=256)
    environment["PATH"] = f"{tmp_path}:{environment['PATH']}"
    report = tmp_path / "gpu.json"
    command = ["benchmarks/gpu_check.py", "--out", str(report), "--sizes", "small", "--only", "one row"]
    done = device.run(*command, environment=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    found = {aim["aim"]: aim for aim in json.loads(report.read_text())["aims"]}
    assert len(found) == 3
    for name, aim in found.items():
        assert aim["verdict"].startswith(("met", "missed by")), aim
        assert f"| {name} | {aim['case']} | {aim['bound']} | {aim['value']} |" in done.stdout


# Each of the backends that use the driver opens it, so that a fault must meet both.
STATUS = """
import json, sys
from datasentinel import backend
status = next(status for status in backend.backends() if status.name == "fused-cuda")
print(json.dumps([status.availability, status.detail, status.version]))
"""


@pytest.mark.parametrize(
    ("settings", "availability", "words"),
    [
        ({}, "available", ""),
        ({"capability": "7.5"}, "no device", "has compute capability 7.5; 8.0 or later is needed"),
        (
            {"fail": "cuInit:1=100,cuInit:2=100"},
            "no device",
            "cuInit says: no CUDA-capable device is detected",
        ),
        ({"devices": 0}, "no device", "the driver lists none"),
        ({"fail": "cuInit:1=12345,cuInit:2=12345"}, "no device", "cuInit says: 12345"),
        (
            {"fail": "cuDeviceGetAttribute:1=999,cuDeviceGetAttribute:2=999"},
            "no device",
            "asking what the device offers",
        ),
        (
            {"fail": "cuDevicePrimaryCtxRetain:1=2,cuDevicePrimaryCtxRetain:2=2"},
            "no device",
            "cuDevicePrimaryCtxRetain says: out of memory",
        ),
    ],
)
def test_why_a_device_cannot_be_used_is_told(device, settings, availability, words):
    done = device.run("-c", STATUS, **settings)
    assert done.returncode == 0, done.stderr
    got = json.loads(done.stdout)
    assert got[0] == availability
    assert words in got[1]
    assert got[2].startswith("NVRTC" if availability == "available" else "")


# ---------------------------------------------------- The simulation itself: it must notice what would go wrong.

PRELUDE = """
import ctypes
import numpy as np
from tests.cuda_on_cpu.libcuda import Cuda, CudaError
cuda = Cuda()
values = np.arange(100, dtype=np.float32)
def page_locked(size):
    pointer = ctypes.c_void_p()
    cuda("cuMemHostAlloc", ctypes.byref(pointer), ctypes.c_size_t(size), 0)
    return pointer
"""


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("ctypes.memset(cuda.upload(values), 0, 4)", "SIGSEGV"),
        ("a = cuda.upload(values); cuda.free(a); cuda.free(a)", "device memory is freed twice"),
        (
            "s = cuda.stream(); cuda('cuStreamDestroy_v2', ctypes.c_void_p(s)); cuda.wait(s)",
            "a stream is used after it was destroyed",
        ),
        (
            "a = cuda.allocate(400); p = page_locked(400); s = cuda.stream()\n"
            "cuda('cuMemcpyHtoDAsync_v2', ctypes.c_uint64(a), p, ctypes.c_size_t(400), ctypes.c_void_p(s))\n"
            "cuda('cuMemFreeHost', p)",
            "page-locked memory is freed while the device has yet to use it",
        ),
    ],
)
def test_what_is_undefined_ends_the_process(device, script, words):
    done = device.run("-c", PRELUDE + script, seed=0)
    if words == "SIGSEGV":
        assert done.returncode == -signal.SIGSEGV
    else:
        assert done.returncode == -signal.SIGABRT
        assert words in done.stderr


def test_work_waits_until_somebody_waits_for_it(device):
    script = """
address = cuda.allocate(values.nbytes)
assert np.isnan(cuda.download(address, 100)).all()
stream = cuda.stream(blocking=False)
cuda.upload_later(values, address, stream)
values[:] = 7  # Too early: the copy reads it when it is done.
assert np.isnan(cuda.download(address, 100)).all()  # Another stream does not wait for this one.
cuda.wait(stream)
assert (cuda.download(address, 100) == 7).all()
blocking = cuda.stream()
values[:] = 8
cuda.upload_later(values, address, blocking)
assert (cuda.download(address, 100) == 8).all()  # The legacy default stream does.
for wrong in (lambda: cuda.wait(0x1234), lambda: cuda.free(0x1234), lambda: cuda.allocate(1 << 40)):
    try:
        wrong()
    except CudaError as error:
        print(error.code)
cuda("cuCtxSetCurrent", None)
try:
    cuda.allocate(4)
except CudaError as error:
    print(error.code)
"""
    done = device.run("-c", PRELUDE + script, seed=0)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["400", "1", "2", "201"]
