"""The onnxruntime backends on a device that is the CPU: real models and sessions, and errors on demand."""

from __future__ import annotations

import ctypes
import gc
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from datasentinel import Detector, backend, libraries
from datasentinel.errors import (
    ArtifactError,
    BackendError,
    BackendUnavailableError,
    DataSentinelError,
    ModelNotFoundError,
    UnsupportedModelError,
)
from datasentinel.gpu import EngineOptions
from tests.bound_scores import check_callers_at_once, check_every_answer, rows_of
from tests.cuda_on_cpu.libcuda import error_of
from tests.networks import Network, write_artifact

_ROOT = Path(__file__).parents[2]
DIMS = [8, 6, 3, 6, 8]
RTOL = 5e-5
PROVIDERS = {
    "onnxruntime-cuda": "CUDAExecutionProvider",
    "onnxruntime-tensorrt": "TensorrtExecutionProvider",
}


class OnnxRuntime:
    """The library that stands in, in this process."""

    def __init__(self, path: Path) -> None:
        self._library = ctypes.CDLL(str(path))
        self._library.onnxruntime_on_cpu_calls.restype = ctypes.c_long
        self._library.onnxruntime_on_cpu_alive.restype = ctypes.c_long

    def fail(self, plan: str) -> None:
        """Set what fails, "Run:1=1" for the first run with the code 1, and count calls anew."""
        self._library.onnxruntime_on_cpu_fail(plan.encode())

    def calls(self) -> int:
        return self._library.onnxruntime_on_cpu_calls()

    def alive(self) -> int:
        """Count what was made and is not released."""
        return self._library.onnxruntime_on_cpu_alive()

    def claim_version(self, version: str) -> None:
        """Be another version; the real one for an empty text."""
        self._library.onnxruntime_on_cpu_version(version.encode())


@pytest.fixture(scope="module")
def library(tmp_path_factory) -> Path:
    compiler = shutil.which("c++")
    real, problem = libraries.find_onnxruntime()
    if compiler is None or not real:
        pytest.skip(problem or "no C++ compiler `c++` on the PATH")
    version = status_of("onnxruntime").version
    if tuple(map(int, version.split(".")[:2])) < (1, 23):
        pytest.skip(f"the stand-in needs ONNX Runtime 1.23, which copies tensors; this is {version}")
    path = tmp_path_factory.mktemp("onnxruntime_on_cpu") / "libonnxruntime.so"
    source = Path(__file__).with_name("onnxruntime.cpp")
    flags = [
        "-std=c++20",
        "-w",
        "-shared",
        "-fPIC",
        f"-I{_ROOT / 'csrc'}",
        f'-DCUDA_ON_CPU_ONNXRUNTIME="{real}"',
    ]
    subprocess.run([compiler, *flags, "-o", str(path), str(source), "-ldl"], check=True, timeout=300)
    return path


@pytest.fixture
def runtime(library, monkeypatch):
    monkeypatch.setenv(libraries.ONNXRUNTIME_LIBRARY_VARIABLE, str(library))
    backend._registry.cache_clear()
    runtime = OnnxRuntime(library)
    yield runtime
    runtime.fail("")
    runtime.claim_version("")
    backend._registry.cache_clear()


@pytest.fixture(scope="module")
def network() -> Network:
    return Network.random(DIMS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, network) -> Path:
    onnx_bytes = network.to_onnx(with_contributions=True)
    return write_artifact(tmp_path_factory.mktemp("model"), onnx_bytes, input_dim=DIMS[0], threshold=1.0)


def load(
    folder: Path, name: str = "onnxruntime-cuda", io_binding: str = "auto", max_rows: int = 8192
) -> Detector:
    engine = EngineOptions(io_binding=io_binding, max_rows=max_rows)
    return Detector.load(folder, backend=name, engine=engine)


def status_of(name: str):
    return next(status for status in backend.backends() if status.name == name)


@pytest.mark.parametrize("io_binding", ["off", "on", "cuda-graphs"])
@pytest.mark.parametrize("name", PROVIDERS)
def test_every_answer_is_the_reference_s(runtime, folder, network, name, io_binding):
    assert status_of(name).availability == "available"
    detector = load(folder, name, io_binding)
    facts = detector.info()["facts"]
    assert facts["execution provider"] == PROVIDERS[name]
    assert facts["io binding"].startswith("no" if io_binding == "off" else "batches of powers of two")
    if io_binding == "cuda-graphs":
        captures = name == "onnxruntime-cuda"
        assert facts["cuda graphs"].startswith("one for each batch size" if captures else "no: ")
    for count in (1, 2, 3, 8, 9, 1000, 20000, 5):
        check_every_answer(detector, network, rows_of(network, count, seed=count), RTOL)
    check_callers_at_once(detector, network, RTOL)


def test_the_core_scores_and_explains_what_the_graph_only_reconstructs(runtime, network, tmp_path):
    folder = write_artifact(tmp_path, network.to_onnx(with_score=False), input_dim=DIMS[0], threshold=1.0)
    detector = load(folder)
    rows = rows_of(network, 300)
    squares = (rows - network.reference(rows)[1]) ** 2
    np.testing.assert_allclose(detector.score(rows), squares.mean(axis=1), rtol=RTOL)
    np.testing.assert_allclose(detector.contributions(rows), squares / DIMS[0], rtol=RTOL, atol=RTOL)


@pytest.mark.parametrize(
    ("name", "io_binding"),
    [("onnxruntime-cuda", "cuda-graphs"), ("onnxruntime-tensorrt", "off"), ("onnxruntime", "off")],
)
def test_an_error_of_any_call_is_typed_and_leaks_nothing(runtime, folder, network, name, io_binding):
    rows = rows_of(network, 5)

    def use() -> None:
        detector = load(folder, name, io_binding, max_rows=2)
        check_every_answer(detector, network, rows, RTOL)

    def left_alive() -> int:
        backend._registry.cache_clear()
        if runtime.alive() != 0:
            gc.collect()
        return runtime.alive()

    runtime.fail("")
    use()
    calls = runtime.calls()
    assert calls > 40
    assert left_alive() == 0
    for call in range(1, calls + 1):
        runtime.fail(f"*:{call}=1")
        error = error_of(use)
        if error is not None:
            assert isinstance(error, BackendError | BackendUnavailableError), repr(error)
            assert str(error).count("as told") == 1
        del error
        assert left_alive() == 0, f"call {call}"
    runtime.fail("")
    use()


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (1, BackendError),
        (3, ModelNotFoundError),
        (7, ArtifactError),
        (9, UnsupportedModelError),
        (10, ArtifactError),
    ],
)
def test_the_library_says_what_kind_of_error_it_is(runtime, folder, code, kind):
    status_of("onnxruntime")
    runtime.fail(f"CreateSessionFromArray:1={code}")
    with pytest.raises(
        DataSentinelError, match=r"loading '.*': ONNX Runtime 1\.\S+ says: as told$"
    ) as caught:
        load(folder, "onnxruntime")
    assert type(caught.value) is kind
    load(folder, "onnxruntime")


@pytest.mark.parametrize(
    ("io_binding", "call", "doing"),
    [
        ("off", "Run", "running the model"),
        ("on", "RunWithBinding", "running the model"),
        ("on", "CopyTensors", "copying between host and device"),
        ("cuda-graphs", "RunWithBinding", "running the model"),
    ],
)
def test_a_run_that_fails_is_an_error_and_the_next_is_answered(
    runtime, folder, network, io_binding, call, doing
):
    detector = load(folder, io_binding=io_binding)
    rows = rows_of(network, 3)
    detector.score(rows)
    runtime.fail(f"{call}:1=6")
    with pytest.raises(BackendError, match=rf"^{doing}: ONNX Runtime \S+ says: as told$"):
        detector.score(rows)
    check_every_answer(detector, network, rows, RTOL)


def test_a_model_that_cannot_be_captured_runs_without_graphs(runtime, folder, network):
    status_of("onnxruntime-cuda")
    runtime.fail("RunWithBinding:1=1")
    detector = load(folder, io_binding="cuda-graphs")
    assert detector.info()["facts"]["cuda graphs"].startswith("no: running the model: ONNX Runtime ")
    check_every_answer(detector, network, rows_of(network, 9), RTOL)


@pytest.mark.parametrize("plan", ["CopyTensors:1=1", "CopyTensors:2=-1"], ids=["refused", "lost"])
def test_copies_that_only_work_once_they_are_registered(runtime, folder, network, plan):
    status_of("onnxruntime-cuda")
    runtime.fail(plan)
    detector = load(folder)
    assert detector.info()["facts"]["io binding"].startswith("batches of powers of two")
    check_every_answer(detector, network, rows_of(network, 9), RTOL)


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        (
            "CopyTensors:1=1,CopyTensors:2=1",
            r"copying between host and device: ONNX Runtime \S+ says: as told",
        ),
        ("CopyTensors:2=-1,CopyTensors:4=-1", "a number changed on its way to the device and back"),
    ],
    ids=["refused", "lost"],
)
def test_without_copies_it_runs_in_the_caller_s_memory_unless_binding_was_asked_for(
    runtime, folder, network, plan, words
):
    status_of("onnxruntime-cuda")
    runtime.fail(plan)
    with pytest.raises(BackendError, match=words):
        load(folder, io_binding="on")
    runtime.fail(plan)
    detector = load(folder)
    facts = detector.info()["facts"]
    assert facts["io binding"].startswith("no: ")
    check_every_answer(detector, network, rows_of(network, 9), RTOL)


def test_a_version_that_copies_nothing(runtime, folder, network):
    runtime.claim_version("1.22.1")
    detector = load(folder)
    words = "ONNX Runtime 1.22.1 does not copy tensors; 1.23 and later do"
    assert detector.info()["facts"]["io binding"] == f"no: {words}"
    check_every_answer(detector, network, rows_of(network, 9), RTOL)
    with pytest.raises(BackendUnavailableError, match=words):
        load(folder, io_binding="on")


@pytest.mark.parametrize("version", ["1.19.2", "0.9", "unknown"])
def test_a_version_that_is_too_old_is_named(runtime, folder, library, version):
    runtime.claim_version(version)
    words = f"'{library}' is ONNX Runtime {version}; 1.20 or later is needed"
    assert (status_of("onnxruntime").availability, status_of("onnxruntime").detail) == (
        "library not found",
        words,
    )
    with pytest.raises(BackendUnavailableError) as caught:
        load(folder, "onnxruntime")
    assert str(caught.value) == words


@pytest.mark.parametrize("name", PROVIDERS)
def test_a_provider_that_does_not_load_is_tried_again(runtime, name):
    """A library of NVIDIA's may come later. The reason is TensorRT's loader's, of which ONNX Runtime is silent."""
    call = "CUDA_V2" if name == "onnxruntime-cuda" else "TensorRT_V2"
    runtime.fail(f"SessionOptionsAppendExecutionProvider_{call}:1=1")
    status = status_of(name)
    assert status.availability == "library not found"
    assert "'s provider: ONNX Runtime 1." in status.detail
    beside = "; cannot open '/.*/libonnxruntime_providers_tensorrt.so': "
    assert (re.search(beside, status.detail) is not None) == (name == "onnxruntime-tensorrt")
    assert status_of(name).availability == "available"
