"""A few rows of layers so wide that the blocks of a cluster share them, where the device has clusters."""

from __future__ import annotations

import os
import threading

import numpy as np
import pytest

from datasentinel import Detector
from datasentinel.errors import BackendError
from tests.cuda_on_cpu.inside.device_rows import Array, on_device, scores_of
from tests.networks import Network, write_artifact

NETWORK = Network.random([256, 130, 256])
MOST_CLUSTERS = int(os.environ.get("CUDA_ON_CPU_MOST_CLUSTERS", "2"))
HAS_CLUSTERS = float(os.environ["CUDA_ON_CPU_CAPABILITY"]) >= 9.0 and MOST_CLUSTERS > 0


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_artifact(tmp_path_factory.mktemp("wide"), NETWORK.to_onnx(), input_dim=256, threshold=1)


@pytest.fixture
def detector(cuda, folder):
    return Detector.load(folder, backend="fused-cuda")


def rows_for(count: int, seed: int = 3) -> np.ndarray:
    values = NETWORK.mean + NETWORK.scale * np.random.default_rng(seed).normal(size=(count, 256))
    return values.astype(np.float32)


@pytest.mark.parametrize("count", [1, 8, 9])
def test_a_few_rows_are_scored(detector, count):
    assert ("blocks that share a few rows" in detector.info()["facts"]) == HAS_CLUSTERS
    rows = rows_for(count)
    expected = NETWORK.reference(rows)[0]
    for shift in range(2):
        np.testing.assert_allclose(
            detector.score(np.roll(rows, shift, axis=0)), np.roll(expected, shift), rtol=5e-5
        )


def test_a_few_rows_on_the_device_are_scored(cuda, detector):
    rows = rows_for(3)
    with on_device(cuda, rows) as address:
        result = detector.score(Array(address, rows.shape))
        np.testing.assert_allclose(scores_of(cuda, result), NETWORK.reference(rows)[0], rtol=5e-5)


def test_calls_at_once_do_not_share_values(cuda, detector):
    wrong = []

    def score(number: int) -> None:
        for count in (1, 3, 2):
            rows = rows_for(count, seed=number)
            if not np.allclose(detector.score(rows), NETWORK.reference(rows)[0], rtol=5e-5):
                wrong.append((number, count))

    threads = [threading.Thread(target=score, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_device_that_refuses_is_an_error(cuda, detector):
    cuda.fail("cuLaunchKernel:1=912")
    with pytest.raises(BackendError, match="invalid cluster size"):
        detector.score(rows_for(9))
