"""The memory of measured plans: survives restarts, never trusted when damaged, never in the way."""

from __future__ import annotations

import dataclasses
import json

import pytest

from datasentinel import plan_cache
from datasentinel.plan_cache import PlanKey, PlanRecord

KEY = PlanKey(
    model_sha256="ab" * 32,
    cpu="a cpu",
    gpus="all",
    num_threads=1,
    precision="float32",
    versions=("x 1", "y 2"),
)
RECORD = PlanRecord(
    steps=((1, "fused"), (64, "onnxruntime")),
    timings=((1, "fused", 0.1), (1, "onnxruntime", 2.5)),
    refusals=(("tensorrt", "not built"),),
)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv(plan_cache.CACHE_DIR_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


def stored_file(folder):
    (path,) = (folder / "plans").iterdir()
    return path


def test_a_plan_is_remembered():
    assert plan_cache.load(KEY) is None
    assert plan_cache.store(KEY, RECORD)
    assert plan_cache.load(KEY) == RECORD


@pytest.mark.parametrize(
    "change",
    [
        {"model_sha256": "cd" * 32},
        {"cpu": "another"},
        {"gpus": "a GPU, all"},
        {"num_threads": 2},
        {"precision": "bf16"},
        {"versions": ("x 1", "y 3")},
    ],
)
def test_a_plan_holds_for_its_own_key_only(change):
    plan_cache.store(KEY, RECORD)
    assert plan_cache.load(dataclasses.replace(KEY, **change)) is None


@pytest.mark.parametrize(
    "damage",
    [
        lambda _text: "",
        lambda text: text[: len(text) // 2],
        lambda _text: "[]",
        lambda _text: "\x00\xff",
        lambda text: json.dumps(json.loads(text) | {"steps": []}),
        lambda text: json.dumps(json.loads(text) | {"steps": [["1", "fused"]]}),
        lambda text: json.dumps(json.loads(text) | {"steps": "fused"}),
        lambda text: json.dumps(json.loads(text) | {"timings": [[1, "fused"]]}),
    ],
)
def test_a_damaged_plan_is_no_plan_and_is_replaced(folder, damage):
    plan_cache.store(KEY, RECORD)
    path = stored_file(folder)
    path.write_text(damage(path.read_text()), encoding="latin-1")
    assert plan_cache.load(KEY) is None
    assert plan_cache.store(KEY, RECORD)
    assert plan_cache.load(KEY) == RECORD


def test_a_folder_that_cannot_be_written_harms_nobody(folder):
    folder.write_text("a file where the folder should be")
    assert not plan_cache.store(KEY, RECORD)
    assert plan_cache.load(KEY) is None


def test_nothing_is_left_behind(folder):
    for _ in range(3):
        plan_cache.store(KEY, RECORD)
    assert len(list((folder / "plans").iterdir())) == 1


def test_the_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.delenv(plan_cache.CACHE_DIR_VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert plan_cache.cache_dir() == tmp_path / "xdg" / "datasentinel"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert plan_cache.cache_dir() == tmp_path / ".cache" / "datasentinel"


def test_the_gpus_are_told_by_their_models_and_by_which_of_them_are_visible(tmp_path, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert plan_cache.gpu_identity(tmp_path / "none") == "all"
    for bus, model in (("0000:01:00.0", "NVIDIA L4"), ("0000:02:00.0", "NVIDIA H100")):
        (tmp_path / bus).mkdir()
        (tmp_path / bus / "information").write_text(f"Model: \t\t {model}\nIRQ: 42\n")
    assert plan_cache.gpu_identity(tmp_path) == "NVIDIA L4, NVIDIA H100, all"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert plan_cache.gpu_identity(tmp_path) == "NVIDIA L4, NVIDIA H100, 1"
