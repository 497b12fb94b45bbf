"""`auto` from Python: what it plans, that it remembers, and that it is never worse off for remembering."""

from __future__ import annotations

import json
import os
import time

import numpy as np
import pytest

from datasentinel import Detector, plan_cache
from datasentinel.errors import InvalidInputError
from tests.networks import Network, write_artifact

D = 8


@pytest.fixture(scope="module")
def network() -> Network:
    return Network.random([D, 6, 3, 6, D])


@pytest.fixture(scope="module")
def folder(network, tmp_path_factory):
    return write_artifact(tmp_path_factory.mktemp("model"), network.to_onnx(), input_dim=D, threshold=1.0)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv(plan_cache.CACHE_DIR_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


def plan_files(cache) -> list:
    return sorted((cache / "plans").glob("*.json")) if cache.exists() else []


def test_the_plan_covers_every_size_and_rests_on_timings(folder):
    info = Detector.load(folder, plan_budget_s=30).info()  # However slow the machine is today.
    assert min(info["plan"]) == 1
    measured = {rows for rows, _, _ in info["timings"]}
    assert measured == {2**power for power in range(14)}
    assert {name for _, name, _ in info["timings"]} == {"fused", "onnxruntime"}
    assert set(info["plan"].values()) <= {"fused", "onnxruntime"}
    assert all(latency_us > 0 for _, _, latency_us in info["timings"])


def test_scores_are_the_reference_s_at_every_size(network, folder):
    detector = Detector.load(folder)
    rows = np.random.default_rng(0).normal(0, 3, (3000, D)).astype(np.float32)
    expected = network.reference(rows)[0]
    for size in (1, 2, 3, 5, 17, 64, 1000, 3000):
        np.testing.assert_allclose(detector.score(rows[:size]), expected[:size], rtol=1e-5)


def test_a_plan_is_measured_once(folder, cache):
    first = Detector.load(folder).info()
    (path,) = plan_files(cache)
    written_ns = path.stat().st_mtime_ns
    second = Detector.load(folder).info()
    assert plan_files(cache) == [path]
    assert path.stat().st_mtime_ns == written_ns
    assert second["plan"] == first["plan"]
    assert second["timings"] == first["timings"]
    assert second["refusals"] == first["refusals"]


def test_another_thread_setting_is_another_plan(folder, cache):
    Detector.load(folder, plan_budget_s=0.1)
    Detector.load(folder, plan_budget_s=0.1, num_threads=2)
    assert len(plan_files(cache)) == 2


def test_a_damaged_memory_is_measured_anew(folder, cache):
    Detector.load(folder, plan_budget_s=0.1)
    (path,) = plan_files(cache)
    path.write_text(path.read_text()[:100])
    assert Detector.load(folder, plan_budget_s=0.1).info()["timings"]
    json.loads(path.read_text())


def test_a_plan_for_a_backend_that_is_gone_is_measured_anew(folder, cache):
    Detector.load(folder, plan_budget_s=0.1)
    (path,) = plan_files(cache)
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"steps": [[1, "abacus"]]}))
    assert "abacus" not in Detector.load(folder, plan_budget_s=0.1).info()["plan"].values()
    assert "abacus" not in path.read_text()


def test_a_remembered_plan_is_followed(folder, cache):
    Detector.load(folder, plan_budget_s=0.1)
    (path,) = plan_files(cache)
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"steps": [[1, "onnxruntime"], [100, "fused"]]}))
    detector = Detector.load(folder)
    assert detector.info()["plan"] == {1: "onnxruntime", 100: "fused"}
    assert detector.backend == "onnxruntime"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_cache_harms_nobody(folder, cache):
    cache.mkdir()
    cache.chmod(0o500)
    assert Detector.load(folder, plan_budget_s=0.1).info()["plan"]


def test_a_cache_that_is_a_file_harms_nobody(folder, cache):
    cache.write_text("in the way")
    assert Detector.load(folder, plan_budget_s=0.1).info()["plan"]


def test_no_budget_takes_the_first_that_can(folder, cache):
    info = Detector.load(folder, plan_budget_s=0).info()
    assert info["plan"] == {1: "fused"}
    assert info["timings"] == []
    assert plan_files(cache) == []


def test_the_budget_is_kept(folder):
    # What this thread works, which other work on the machine does not lengthen.
    started = time.thread_time()
    Detector.load(folder, plan_budget_s=0.2)
    assert time.thread_time() - started < 3.0


@pytest.mark.parametrize("budget", [-1, float("nan"), float("inf")])
def test_a_budget_that_is_none_is_refused(folder, budget):
    with pytest.raises(InvalidInputError, match="plan_budget_s"):
        Detector.load(folder, plan_budget_s=budget)


def test_a_named_backend_has_no_plan(folder):
    info = Detector.load(folder, backend="fused").info()
    assert info["plan"] == {}
    assert info["backend"] == "fused"
