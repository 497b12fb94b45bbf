"""The fused-cuda backend on a GPU, against float64."""

from __future__ import annotations

import json
import subprocess
import sys
import threading

import numpy as np
import pytest
from onnx.reference import ReferenceEvaluator

from datasentinel import Detector, backend, pinned_empty, plan_cache
from datasentinel.errors import InvalidInputError, OutOfMemoryError
from tests.networks import Network, write_artifact
from tests.parity.test_cuda_steps import single_columns

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


@pytest.mark.parametrize("instructions", ["mma", "wgmma"])
@pytest.mark.parametrize(("precision", "tolerance"), [("tf32", 2e-3), ("fp16", 2e-3), ("bf16", 2e-2)])
def test_layers_in_lower_precision(instructions, precision, tolerance, tmp_path, monkeypatch):
    monkeypatch.setenv("DATASENTINEL_TENSOR_CORES", instructions)
    network = Network.random([64, 128, 64, 16, 64, 128, 64])
    folder = write_artifact(tmp_path, network.to_onnx(), input_dim=64, threshold=1.0)
    detector = Detector.load(folder, backend="fused-cuda", precision=precision)
    assert (
        detector.info()["facts"]["precision"] == f"{precision} in 6 of 6 matrix products, float32 elsewhere"
    )
    rows = rows_for(network, 9000)
    scores = detector.score(rows)
    np.testing.assert_allclose(scores, network.reference(rows)[0], rtol=tolerance)
    np.testing.assert_allclose(detector.score(rows[:5]), scores[:5], rtol=1e-6)


def test_single_columns_are_reduced_once_in_lower_precision(tmp_path):
    model = single_columns()
    folder = write_artifact(tmp_path, model, input_dim=24, threshold=1.0)
    detector = Detector.load(folder, backend="fused-cuda", precision="fp16")
    assert detector.info()["facts"]["precision"].startswith("fp16 in 1 of 1 ")
    rows = np.random.default_rng(6).normal(size=(3000, 24)).astype(np.float32)
    (expected,) = ReferenceEvaluator(model).run(["score"], {"input": rows})
    for count in (1, 40, 3000):
        np.testing.assert_allclose(detector.score(rows[:count]), expected[:count], rtol=1e-3)


@pytest.mark.parametrize("count", [513, 10_007])
def test_page_locked_rows_score_as_others_do(loaded, count):
    network, detector = loaded
    rows, out = pinned_empty((count, network.input_dim)), pinned_empty(count)
    rows[...] = rows_for(network, count)
    expected = network.reference(rows)[0]
    before = detector.scorer.counts["anomalies"]
    for _ in range(2):
        out[...] = np.nan
        np.testing.assert_allclose(detector.score(rows, out=out), expected, rtol=5e-5)
    assert detector.scorer.counts["anomalies"] - before == 2 * (out > 1.0).sum()
    np.testing.assert_allclose(detector.score(rows), expected, rtol=5e-5)
    rows[count - 3, 1] = np.nan
    with pytest.raises(InvalidInputError, match=f"non-finite value at row {count - 3}, column 1"):
        detector.score(rows, out=out)


def test_a_few_rows_again_and_again(loaded):
    network, detector = loaded
    rows = rows_for(network, 40)
    expected = network.reference(rows)[0]
    for first in range(30):
        for count in (1, 2, 8, 9):
            some = slice(first, first + count)
            np.testing.assert_allclose(detector.score(rows[some]), expected[some], rtol=5e-5)


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


def test_out_of_device_memory_is_an_error_that_passes(loaded):
    torch = pytest.importorskip("torch", reason="torch takes the device's memory here")
    if not torch.cuda.is_available():
        pytest.skip("this torch has no CUDA")
    network, detector = loaded
    rows = torch.from_numpy(rows_for(network, 1_000_000)).cuda()
    taken = []
    size = 1 << 34
    while size >= 1 << 20:
        try:
            taken.append(torch.empty(size, dtype=torch.uint8, device="cuda"))
        except torch.OutOfMemoryError:
            size //= 2
    with pytest.raises(OutOfMemoryError):
        detector.score(rows)
    del taken
    torch.cuda.empty_cache()
    expected = network.reference(rows.cpu().numpy())[0]
    np.testing.assert_allclose(torch.from_dlpack(detector.score(rows)).cpu(), expected, rtol=5e-5)


# An address that is nobody's is an error that CUDA never recovers from: every later call in the process fails.
BREAK_CUDA = """
import json, sys
import numpy as np
import torch
from datasentinel import Detector
from datasentinel.errors import BackendError

class Nowhere:
    __cuda_array_interface__ = {"shape": (1000,), "typestr": "<f4", "data": (16, False), "version": 3}

detector = Detector.load(sys.argv[1])
rows = np.load(sys.argv[2])
before = detector.score(rows)
try:
    detector.score(torch.from_numpy(rows).cuda(), Nowhere())
    raised = False
except BackendError:
    raised = True
after = detector.score(rows)
info = detector.info()
print(json.dumps({"raised": raised, "plan": info["plan"], "facts": info["facts"],
                  "same": bool(np.allclose(before, after, rtol=5e-5))}))
"""


def test_a_cuda_error_while_serving_is_answered_by_the_next_backend(tmp_path, monkeypatch):
    torch = pytest.importorskip("torch", reason="torch puts rows on the device here")
    if not torch.cuda.is_available():
        pytest.skip("this torch has no CUDA")
    monkeypatch.setenv(plan_cache.CACHE_DIR_VARIABLE, str(tmp_path / "cache"))
    network = Network.random([8, 6, 3, 6, 8])
    folder = write_artifact(tmp_path / "model", network.to_onnx(), input_dim=8, threshold=1.0)
    rows = tmp_path / "rows.npy"
    np.save(rows, rows_for(network, 1000))
    Detector.load(folder)  # Measures the plan, which is then made to prefer the GPU.
    (path,) = (tmp_path / "cache" / "plans").glob("*.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"steps": [[1, "fused-cuda"]]}))
    command = [sys.executable, "-c", BREAK_CUDA, str(folder), str(rows)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    assert answer["plan"] == {"1": "fused-cuda"}
    assert answer["raised"]
    assert answer["same"]
    assert answer["facts"]["fused-cuda"].startswith("failed while serving; not used any more: ")
