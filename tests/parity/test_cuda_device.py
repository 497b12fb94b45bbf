"""The fused-cuda backend on a GPU, against float64."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from datasentinel import Detector, backend
from tests.networks import Network, write_artifact

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def _available():
    status = next(status for status in backend.backends() if status.name == "fused-cuda")
    if status.availability != "available":
        pytest.skip(f"fused-cuda is {status.availability}: {status.detail}")


@pytest.fixture(params=[[8, 6, 3, 6, 8], [64, 128, 64, 16, 64, 128, 64], [33, 17, 9, 33]], ids=str)
def loaded(request, tmp_path):
    network = Network.random(request.param)
    onnx_bytes = network.to_onnx(with_contributions=True)
    folder = write_artifact(tmp_path, onnx_bytes, input_dim=network.input_dim, threshold=1.0)
    return network, Detector.load(folder, backend="fused-cuda")


def rows_for(network: Network, count: int) -> np.ndarray:
    random = np.random.default_rng(7)
    return (network.mean + 2 * network.scale * random.normal(size=(count, network.input_dim))).astype(
        np.float32
    )


@pytest.mark.parametrize("count", [1, 2, 31, 33, 1000, 65_536, 300_001])
def test_scores_are_the_reference_s(loaded, count):
    network, detector = loaded
    rows = rows_for(network, count)
    np.testing.assert_allclose(detector.score(rows), network.reference(rows)[0], rtol=5e-5)


def test_every_output_is_the_reference_s(loaded):
    network, detector = loaded
    rows = rows_for(network, 5000)
    np.testing.assert_allclose(detector.reconstruct(rows), network.reference(rows)[1], rtol=5e-5, atol=5e-5)
    expected = network.reference_contributions(rows)
    np.testing.assert_allclose(detector.contributions(rows), expected, rtol=1e-3, atol=1e-5)


def test_several_threads_at_once(loaded):
    network, detector = loaded
    rows = rows_for(network, 2000)
    expected = network.reference(rows)[0]
    wrong = []

    def score() -> None:
        for _ in range(20):
            if not np.allclose(detector.score(rows), expected, rtol=5e-5):
                wrong.append(1)

    threads = [threading.Thread(target=score) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
