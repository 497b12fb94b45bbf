"""benchmarks/gpu_check.py on a machine without a GPU, and the parts of it that need none."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import gpu_check
from benchmarks.models import random_rows, subject

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu_check.py"


def test_without_a_gpu_it_says_so_and_fails(tmp_path):
    # No nvidia-smi on this PATH, whatever the machine has.
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--out", str(tmp_path / "gpu.json")],
        capture_output=True,
        text=True,
        env=os.environ | {"PATH": str(tmp_path)},
        check=False,
        timeout=120,
    )
    assert done.returncode == gpu_check.NO_GPU
    assert "no GPU on this machine: nvidia-smi is not installed" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "gpu.json").exists()


def test_what_cannot_run_reads_not_run_and_the_rest_is_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_check, "BATCHES", (1, 8))
    results = gpu_check.measure_backends(subject("small", tmp_path), random_rows(64, 8, seed=1), 0.001)
    assert list(results) == list(gpu_check.BACKENDS)
    for name in ("fused", "onnxruntime"):
        assert results[name]["relative_error"] < gpu_check.TOLERANCE
        assert set(results[name]["host_to_host"]) == {"1", "8"}
    for result in results.values():
        assert "host_to_host" in result or len(result["not run"]) > 10


def test_torch_without_cuda_reads_not_run():
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("torch has CUDA here")
    results = gpu_check.measure_torch("small", random_rows(8, 8, seed=1), 0.001)
    assert "has no CUDA here" in results["torch"]["not run"]
    assert "has no CUDA here" in gpu_check.measure_bus(0.001)["not run"]
