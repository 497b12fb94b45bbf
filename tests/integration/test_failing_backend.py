"""A backend that fails while it serves: the batch is answered by the next one, and the failure is reported."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from datasentinel import plan_cache
from tests.networks import Network, write_artifact

# ONNX Runtime keeps the whole batch at every layer and the fused kernels a few rows, so that of two backends
# one runs out of memory for real where the process may take no more of it.
SCRIPT = """
import json, resource, sys
import numpy as np
from datasentinel import Detector

folder, headroom = sys.argv[1], int(sys.argv[2])
detector = Detector.load(folder)
rows = np.zeros((200_000, 64), np.float32)
out = np.zeros(len(rows), np.float32)
detector.score(rows[:10])
with open("/proc/self/statm") as file:
    in_use = int(file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (in_use + headroom, resource.RLIM_INFINITY))
detector.score(rows, out)
detector.score(rows, out)
again = detector.score(rows[:10])
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
print(json.dumps({"plan": detector.info()["plan"], "facts": detector.info()["facts"],
                  "first": float(out[0]), "last": float(out[-1]), "few": float(again[0])}))
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv(plan_cache.CACHE_DIR_VARIABLE, str(tmp_path / "cache"))
    network = Network.random([64, 128, 64, 16, 64, 128, 64])
    return write_artifact(tmp_path / "model", network.to_onnx(), input_dim=64, threshold=1.0)


def run(folder, headroom_bytes: int) -> dict:
    command = [sys.executable, "-c", SCRIPT, str(folder), str(headroom_bytes)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=os.environ)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/self/statm")
def test_a_backend_out_of_memory_is_left_and_the_next_answers(folder, tmp_path):
    run(folder, 4 << 30)  # Measures the plan, which is then made to prefer ONNX Runtime.
    (path,) = (tmp_path / "cache" / "plans").glob("*.json")
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"steps": [[1, "onnxruntime"]]}))

    fine = run(folder, 4 << 30)
    assert fine["plan"] == {"1": "onnxruntime"}
    assert "onnxruntime" not in fine["facts"]

    starved = run(folder, 24 << 20)
    assert starved["plan"] == {"1": "onnxruntime"}
    assert starved["facts"]["onnxruntime"].startswith("failed while serving; not used any more: ")
    assert "ONNX Runtime" in starved["facts"]["onnxruntime"]
    for key in ("first", "last", "few"):
        assert starved[key] == pytest.approx(fine[key], rel=2e-5)
