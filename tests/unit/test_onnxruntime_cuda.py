"""ONNX Runtime on a GPU: the real reason where it cannot run, and never the CPU in its place."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor

import pytest

from datasentinel import Detector, backend
from datasentinel.errors import BackendUnavailableError
from datasentinel.gpu import EngineOptions
from tests.bound_scores import SIZES, check_callers_at_once, check_every_answer, rows_of
from tests.networks import Network, write_artifact

DIMS = [8, 6, 3, 6, 8]

PROVIDERS = {
    "onnxruntime-cuda": ("CUDA", "CUDAExecutionProvider"),
    "onnxruntime-tensorrt": ("TensorRT", "TensorrtExecutionProvider"),
}


@pytest.fixture(params=PROVIDERS)
def status(request):
    return next(status for status in backend.backends() if status.name == request.param)


@pytest.fixture(scope="module")
def network():
    return Network.random(DIMS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, network):
    folder = tmp_path_factory.mktemp("model")
    return write_artifact(folder, network.to_onnx(), input_dim=DIMS[0], threshold=1.0)


def test_a_library_that_cannot_load_the_provider_is_refused_with_the_reason(status, folder):
    if status.availability == "available":
        pytest.skip(f"{status.name} loads here")
    assert status.availability == "library not found"
    # A wheel without the provider, or ONNX Runtime's words about what does not load.
    vendor = PROVIDERS[status.name][0]
    if f"was built without {vendor}" not in status.detail:
        assert re.search(rf"{vendor}('s provider)?: ONNX Runtime \S+ says: ", status.detail)
        # The loader's words: which library of NVIDIA's is missing.
        assert re.search(r"lib\w+\.so\S*: cannot open shared object file", status.detail)
    with pytest.raises(BackendUnavailableError) as caught:
        Detector.load(folder, backend=status.name)
    assert str(caught.value) == status.detail
    info = Detector.load(folder, plan_budget_s=0).info()
    assert info["refusals"][status.name] == f"library not found: {status.detail}"


def test_the_cpu_says_that_it_is_the_cpu(folder):
    facts = Detector.load(folder, backend="onnxruntime").info()["facts"]
    assert facts["execution provider"] == "CPUExecutionProvider"


@pytest.fixture
def load_on_gpu(status, network, tmp_path):
    """Load a model on the GPU; skips where the backend is not available."""
    if status.availability != "available":
        pytest.skip(f"{status.name} is {status.availability}: {status.detail}")
    folder = write_artifact(
        tmp_path, network.to_onnx(with_contributions=True), input_dim=DIMS[0], threshold=1.0
    )

    def load(io_binding: str) -> Detector:
        return Detector.load(folder, backend=status.name, engine=EngineOptions(io_binding=io_binding))

    return load


def tolerance_of(status) -> float:
    # TensorRT's provider has no option that rules out TF32, which keeps 10 bits of the mantissa.
    return 5e-5 if status.name == "onnxruntime-cuda" else 1e-2


@pytest.mark.gpu
@pytest.mark.parametrize("io_binding", ["off", "on", "cuda-graphs"])
def test_every_answer_is_the_reference_s(status, load_on_gpu, network, io_binding):
    detector = load_on_gpu(io_binding)
    facts = detector.info()["facts"]
    assert facts["execution provider"] == PROVIDERS[status.name][1]
    assert facts["io binding"].startswith("no" if io_binding == "off" else "batches of powers of two")
    if status.name == "onnxruntime-cuda" and io_binding == "cuda-graphs":
        assert facts["cuda graphs"] == "one for each batch size"
    for count in SIZES:
        check_every_answer(detector, network, rows_of(network, count), tolerance_of(status))
    # Small batches after large ones: every graph is replayed with rows that it was not captured with.
    for count in reversed(SIZES):
        check_every_answer(detector, network, rows_of(network, count, seed=1), tolerance_of(status))


@pytest.mark.gpu
@pytest.mark.parametrize("io_binding", ["off", "on", "cuda-graphs"])
def test_callers_at_once_do_not_meet(status, load_on_gpu, network, io_binding):
    check_callers_at_once(load_on_gpu(io_binding), network, tolerance_of(status))


@pytest.mark.gpu
def test_a_model_that_loads_with_graphs_leaves_those_that_run_alone(status, load_on_gpu, network):
    """CUDA forbids other threads much while a graph is captured."""
    busy = load_on_gpu("on")
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(check_callers_at_once, busy, network, tolerance_of(status))
        loaded = load_on_gpu("cuda-graphs")
        running.result()
    check_every_answer(loaded, network, rows_of(network, 9), tolerance_of(status))


@pytest.mark.gpu
def test_io_binding_is_what_auto_means_on_a_gpu(load_on_gpu):
    assert load_on_gpu("auto").info()["facts"]["io binding"].startswith("batches of powers of two")
