"""Which instructions multiply, where the device has both: chosen by a trial at load, or forced."""

from __future__ import annotations

import os
import re

import numpy as np
import pytest

from datasentinel import Detector, plan_cache
from datasentinel.errors import BackendError, InvalidInputError
from tests.networks import Network, write_artifact

NETWORK = Network.random([33, 50, 20, 33])
IS_WRONG = "CUDA_ON_CPU_WRONG_WGMMA" in os.environ


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    onnx_bytes = NETWORK.to_onnx(with_contributions=True)
    return write_artifact(tmp_path_factory.mktemp("model"), onnx_bytes, input_dim=33, threshold=1.0)


@pytest.fixture(autouse=True)
def _own_cache(cuda, tmp_path, monkeypatch):
    monkeypatch.setenv(plan_cache.CACHE_DIR_VARIABLE, str(tmp_path / "cache"))


def load(folder) -> tuple[Detector, str]:
    """Load the model, check its scores, and return what is said of the instructions."""
    detector = Detector.load(folder, backend="fused-cuda", precision="bf16")
    rows = NETWORK.mean + NETWORK.scale * np.random.default_rng(1).normal(size=(600, 33))
    rows = rows.astype(np.float32)
    np.testing.assert_allclose(detector.score(rows), NETWORK.reference(rows)[0], rtol=2e-2)
    return detector, detector.info()["facts"]["tensor cores"]


def test_the_faster_instructions_are_found_once(cuda, folder):
    said = load(folder)[1]
    if IS_WRONG:
        assert re.fullmatch(r"mma: results with wgmma differ: \S+ instead of \S+", said)
    else:
        faster = re.fullmatch(r"(\w+): mma ([\d.]+) us, wgmma ([\d.]+) us for 1024 rows on the device", said)
        assert faster
        assert (faster[1] == "wgmma") == (float(faster[3]) < float(faster[2]))
    loaded = cuda.calls("cuModuleLoadData")
    detector = Detector.load(folder, backend="fused-cuda", precision="bf16")
    assert cuda.calls("cuModuleLoadData") == loaded + 1
    assert detector.info()["facts"]["tensor cores"] == said


def test_an_error_leaves_the_proven_instructions(cuda, folder):
    cuda.fail("cuModuleLoadData:2=200")  # The first has mma.
    said = load(folder)[1]
    assert said.startswith("mma: wgmma failed: loading the kernel: CUDA says: ")
    assert load(folder)[1] == said


def test_an_error_of_the_proven_instructions_is_no_verdict(cuda, folder):
    cuda.fail("cuModuleLoadData:1=200")
    with pytest.raises(BackendError, match="loading the kernel"):
        load(folder)
    assert "did not end" not in load(folder)[1]


def test_too_little_memory_is_no_verdict(cuda, folder):
    cuda.fail("cuModuleLoadData:2=2")
    assert load(folder)[1] == "mma: there is no memory to try wgmma"
    assert "on the device" in load(folder)[1] or IS_WRONG


@pytest.mark.parametrize("instructions", ["mma", "wgmma"])
def test_the_user_may_choose(folder, monkeypatch, instructions):
    if IS_WRONG:
        pytest.skip("scores with wgmma are wrong here")
    monkeypatch.setenv("DATASENTINEL_TENSOR_CORES", instructions)
    assert load(folder)[1] == f"{instructions}: DATASENTINEL_TENSOR_CORES says so"


def test_other_instructions_are_refused(folder, monkeypatch):
    monkeypatch.setenv("DATASENTINEL_TENSOR_CORES", "hmma")
    with pytest.raises(InvalidInputError, match="DATASENTINEL_TENSOR_CORES must be mma or wgmma, not 'hmma'"):
        load(folder)


def test_nothing_is_tried_where_it_cannot_be_noted(folder, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv(plan_cache.CACHE_DIR_VARIABLE, str(tmp_path / "file"))
    assert load(folder)[1] == "mma: wgmma is not tried without a cache folder"
