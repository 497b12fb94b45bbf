"""ONNX Runtime on a GPU: the real reason where it cannot run, and never the CPU in its place."""

from __future__ import annotations

import re

import numpy as np
import pytest

from datasentinel import Detector, backend
from datasentinel.errors import BackendUnavailableError
from tests.networks import Network, write_artifact

PROVIDERS = {
    "onnxruntime-cuda": ("CUDA", "CUDAExecutionProvider"),
    "onnxruntime-tensorrt": ("TensorRT", "TensorrtExecutionProvider"),
}


@pytest.fixture(params=PROVIDERS)
def status(request):
    return next(status for status in backend.backends() if status.name == request.param)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    onnx_bytes = Network.random([8, 6, 3, 6, 8]).to_onnx()
    return write_artifact(tmp_path_factory.mktemp("model"), onnx_bytes, input_dim=8, threshold=1.0)


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


@pytest.mark.gpu
def test_scores_are_the_reference_s(status, folder):
    if status.availability != "available":
        pytest.skip(f"{status.name} is {status.availability}: {status.detail}")
    network = Network.random([8, 6, 3, 6, 8])
    rows = np.random.default_rng(0).normal(0, 3, (5000, 8)).astype(np.float32)
    detector = Detector.load(folder, backend=status.name)
    assert detector.info()["facts"]["execution provider"] == PROVIDERS[status.name][1]
    # TensorRT's provider has no option that rules out TF32, which keeps 10 bits of the mantissa.
    tolerance = 5e-5 if status.name == "onnxruntime-cuda" else 1e-2
    np.testing.assert_allclose(detector.score(rows), network.reference(rows)[0], rtol=tolerance)
