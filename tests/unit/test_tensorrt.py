"""The tensorrt backend as far as a machine without a GPU can tell: TensorRT for RTX builds real engines there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper

from datasentinel import Detector, backend, gpu, libraries
from datasentinel.artifact import load_artifact
from datasentinel.cli import cli
from datasentinel.errors import (
    BackendError,
    BackendUnavailableError,
    InvalidInputError,
    UnsupportedModelError,
)
from datasentinel.export import build_graph
from datasentinel.gpu import EngineOptions
from datasentinel.training import TrainingSettings, train
from tests.networks import Network, write_artifact

RTX = "libtensorrt_rtx.so.1"


@pytest.fixture(scope="module")
def rtx() -> Path:
    """The folder of TensorRT for RTX."""
    for folder in libraries._package_folders("tensorrt_rtx_libs"):
        if (folder / RTX).exists():
            return folder
    pytest.skip("TensorRT for RTX is not installed: pip install 'datasentinel[tensorrt-rtx]'")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    onnx_bytes = Network.random([5, 2, 5]).to_onnx()
    return write_artifact(tmp_path_factory.mktemp("model"), onnx_bytes, input_dim=5, threshold=1.0)


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("DATASENTINEL_CACHE_DIR", str(tmp_path))
    return tmp_path / "engines"


@pytest.fixture(scope="module")
def registry(rtx):
    """The backends with TensorRT for RTX, whichever else is installed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(libraries.TENSORRT_LIBRARY_VARIABLE, str(rtx))
        backend._registry.cache_clear()
        yield backend._registry()
    backend._registry.cache_clear()


def tensorrt_status():
    return next(status for status in backend.backends() if status.name == "tensorrt")


def artifact_of(tmp_path: Path, nodes: list, columns: int = 4, initializers: tuple = ()) -> Path:
    """An artifact of a graph from `input` to `output`."""
    shape = ["batch", columns]
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, shape)],
        initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return write_artifact(tmp_path, model.SerializeToString(), input_dim=columns, threshold=1.0)


# ------------------------------------------------------------------------------------------- Finding it


def test_the_variable_must_name_something(monkeypatch, tmp_path):
    monkeypatch.setenv(libraries.TENSORRT_LIBRARY_VARIABLE, str(tmp_path / "nowhere"))
    path, problem = libraries.find_tensorrt()
    assert path == ""
    assert problem.endswith("nowhere', which does not exist")
    monkeypatch.setenv(libraries.TENSORRT_LIBRARY_VARIABLE, str(tmp_path))
    assert libraries.find_tensorrt() == (str(tmp_path), "")


def test_no_wheel_says_what_to_install(monkeypatch):
    monkeypatch.delenv(libraries.TENSORRT_LIBRARY_VARIABLE, raising=False)
    monkeypatch.setattr(libraries.importlib.util, "find_spec", lambda _name: None)
    path, problem = libraries.find_tensorrt()
    assert path == ""
    assert "datasentinel[tensorrt-rtx]" in problem
    assert "datasentinel[gpu]" in problem


def test_wheels_are_found_in_order_and_without_importing_them(tmp_path, monkeypatch):
    monkeypatch.delenv(libraries.TENSORRT_LIBRARY_VARIABLE, raising=False)
    wheels = {
        "tensorrt_lean_libs": "libnvinfer_lean.so.11",
        "tensorrt_rtx_libs": RTX,
        "tensorrt_libs": "libnvinfer.so.11",
    }
    for package in wheels:
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text("raise AssertionError('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    # A wheel that was left behind empty is passed over.
    assert libraries.find_tensorrt()[0] == ""
    for package, library in wheels.items():
        (tmp_path / package / library).touch()
        assert libraries.find_tensorrt() == (str(tmp_path / package), "")


def status_with(library: object) -> list[str]:
    code = (
        "import datasentinel\n"
        "s = next(s for s in datasentinel.backends() if s.name == 'tensorrt')\n"
        "print(s.availability, '|', s.detail)"
    )
    environment = os.environ | {libraries.TENSORRT_LIBRARY_VARIABLE: str(library)}
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True
    )
    return run.stdout.strip().split(" | ")


def test_it_is_in_every_build_and_names_the_library_that_is_missing(tmp_path):
    availability, detail = status_with(tmp_path)
    assert availability == "library not found"
    assert detail.startswith(f"'{tmp_path}' has none of libnvinfer.so.11, {RTX}, libnvinfer_lean.so.11")


def test_another_major_version_is_named(tmp_path):
    (tmp_path / "libnvinfer.so.10").touch()
    assert status_with(tmp_path)[1].endswith(", only libnvinfer.so.10")


def test_named_it_is_an_error_and_auto_goes_on(folder):
    status = tensorrt_status()
    if status.availability == "available":
        pytest.skip("tensorrt runs here")
    with pytest.raises(BackendUnavailableError):
        Detector.load(folder, backend="tensorrt")
    refusals = Detector.load(folder, plan_budget_s=0).info()["refusals"]
    assert refusals["tensorrt"] == f"{status.availability}: {status.detail}"


def test_build_engine_without_a_device_refuses_with_the_reason(folder):
    if tensorrt_status().availability == "available":
        pytest.skip("tensorrt runs here")
    result = CliRunner().invoke(cli, ["build-engine", str(folder)])
    assert isinstance(result.exception, BackendUnavailableError)
    assert str(result.exception) == tensorrt_status().detail


@pytest.mark.parametrize(
    "options", [{"optimization_level": 6}, {"optimization_level": -1}, {"max_rows": 0}, {"workspace_mib": -1}]
)
def test_options_out_of_range_are_refused(options):
    with pytest.raises(InvalidInputError, match=next(iter(options))):
        EngineOptions(**options)


@pytest.mark.parametrize(("text", "architecture"), [("8.9", 89), ("12.0", 120), ("7.5", 75)])
def test_compute_capabilities_are_read(text, architecture):
    assert gpu.architecture_of(text) == architecture


@pytest.mark.parametrize("text", ["", "8", "89", "8.10", "sm_89", "8.9 ", "-8.9"])
def test_what_is_no_compute_capability_is_refused(text):
    with pytest.raises(InvalidInputError, match=f"'{text}' is not a compute capability"):
        gpu.architecture_of(text)


# ------------------------------------------------------------------- Real engines, by TensorRT for RTX


def test_without_a_device_it_says_that_it_builds_engines(registry, rtx):
    status = tensorrt_status()
    if status.availability == "available":
        pytest.skip("there is a device")
    assert status.availability == "no device"
    assert status.detail.startswith("builds engines; cannot run them here: no device")
    assert f"'{rtx / RTX}' is TensorRT for RTX 1." in status.detail


@pytest.mark.parametrize("widths", [[8, 6, 3, 6, 8], [64, 128, 64, 16, 64, 128, 64]], ids=["small", "medium"])
def test_engines_are_built_for_devices_that_are_not_here(registry, cache, tmp_path_factory, widths):
    onnx_bytes = Network.random(widths).to_onnx(with_contributions=True)
    folder = write_artifact(tmp_path_factory.mktemp("model"), onnx_bytes, input_dim=widths[0], threshold=1.0)
    command = ["build-engine", str(folder), "--compute-capability", "8.6, 8.9,12.0"]
    first = CliRunner().invoke(cli, command)
    assert first.exit_code == 0, first.output
    lines = first.stdout.splitlines()
    assert [line.split()[2] for line in lines[:3]] == ["8.6", "8.9", "12.0"]
    assert all(line.endswith("bytes, built") for line in lines[:3])
    assert lines[3].split(maxsplit=1)[1].startswith("TensorRT for RTX 1.")
    engines = {path: path.read_bytes() for path in cache.glob("*.engine")}
    assert len(engines) == 3
    for capability in ("8.6", "8.9", "12.0"):
        (engine,) = [e for e in engines.values() if f"compute capability={capability}\n".encode() in e[:1000]]
        assert len(engine) > 10_000
        assert b"library=TensorRT for RTX 1." in engine[:1000]

    again = CliRunner().invoke(cli, command)
    assert all(line.endswith("bytes, from the cache") for line in again.stdout.splitlines()[:3])
    assert engines == {path: path.read_bytes() for path in cache.glob("*.engine")}


@pytest.mark.parametrize(
    "settings",
    [TrainingSettings(model="ensemble", steps=20), TrainingSettings(model="subspace")],
    ids=["ensemble", "subspace"],
)
def test_what_training_makes_is_built(registry, cache, tmp_path, settings):
    rows = np.random.default_rng(3).normal(size=(400, 12)).astype(np.float32)
    graph = build_graph(train(rows, settings=settings).model)
    folder = write_artifact(tmp_path, graph, input_dim=12, threshold=1.0)
    engines = backend.build_engines(load_artifact(folder), [86, 89, 120])
    assert [engine.architecture for engine in engines] == [86, 89, 120]
    assert all(engine.built and engine.size_bytes > 100_000 for engine in engines)


def test_a_damaged_engine_is_built_anew(registry, cache, folder):
    artifact = load_artifact(folder)
    (engine,) = backend.build_engines(artifact, [89])
    (path,) = cache.glob("*.engine")
    path.write_bytes(path.read_bytes()[:-1])
    (again,) = backend.build_engines(artifact, [89])
    assert engine.built
    assert again.built
    assert backend.build_engines(artifact, [89])[0].size_bytes == again.size_bytes


def test_progress_is_told_and_may_end_the_build(registry, cache, folder):
    phases = []
    backend.build_engines(load_artifact(folder), [86], on_progress=lambda *step: phases.append(step))
    assert phases
    assert all(0 <= step <= steps or steps == 0 for _, step, steps in phases)

    def stop(*_: object) -> None:
        raise KeyError("enough")

    with pytest.raises(KeyError, match="enough"):
        backend.build_engines(load_artifact(folder), [89], on_progress=stop)


@pytest.mark.parametrize("architecture", [90, 100, 130])
def test_a_card_that_it_does_not_build_for_is_named(registry, cache, folder, architecture):
    named = f"builds no engines for compute capability {architecture // 10}.{architecture % 10}$"
    with pytest.raises(UnsupportedModelError, match=named):
        backend.build_engines(load_artifact(folder), [architecture])
    assert not list(cache.glob("*.engine"))


def test_the_builder_s_own_words_reach_the_user(registry, cache, folder):
    """It has no float32 products for Turing."""
    with pytest.raises(BackendError, match=r"says: .*Turing.*FP32 GEMM is not supported"):
        backend.build_engines(load_artifact(folder), [75])


def test_the_parser_s_own_words_reach_the_user(registry, cache, tmp_path):
    unknown = artifact_of(tmp_path, [helper.make_node("Det", ["input"], ["output"])])
    with pytest.raises(UnsupportedModelError, match=r"TensorRT's parser refuses it: .*\(node 0, Det\)"):
        backend.build_engines(load_artifact(unknown), [89])


def test_shapes_that_do_not_fit_are_told_in_its_words(registry, cache, tmp_path):
    weights = onnx.numpy_helper.from_array(np.ones((5, 4), np.float32), "w")
    wrong = artifact_of(tmp_path, [helper.make_node("MatMul", ["input", "w"], ["output"])], 4, (weights,))
    with pytest.raises((UnsupportedModelError, BackendError), match=r"(?s)TensorRT.*[Dd]imension"):
        backend.build_engines(load_artifact(wrong), [89])


@pytest.mark.parametrize("option", ["--version-compatible", "--hardware-compatible"])
def test_what_only_the_full_tensorrt_offers_is_refused(registry, cache, folder, option):
    result = CliRunner().invoke(cli, ["build-engine", str(folder), "--compute-capability", "8.9", option])
    assert isinstance(result.exception, InvalidInputError)
    assert "has engines for compute capabilities" in str(result.exception)


def test_other_backends_build_nothing_ahead(folder):
    with pytest.raises(BackendUnavailableError, match="'fused' builds nothing ahead of time"):
        backend.build_engines(load_artifact(folder), [89], backend="fused")


@pytest.mark.gpu
def test_scores_are_the_reference_s_and_the_engine_is_kept(folder, cache):
    status = tensorrt_status()
    if status.availability != "available":
        pytest.skip(f"tensorrt is {status.availability}: {status.detail}")
    network = Network.random([5, 2, 5])
    rows = np.random.default_rng(0).normal(0, 3, (20_000, 5)).astype(np.float32)
    expected = network.reference(rows)[0]
    first = Detector.load(folder, backend="tensorrt")
    assert first.info()["facts"]["engine"] == "built"
    for size in (1, 2, 3, 64, 65, 1000, 20_000):
        np.testing.assert_allclose(first.score(rows[:size]), expected[:size], rtol=1e-4)
    assert Detector.load(folder, backend="tensorrt").info()["facts"]["engine"] == "from the cache"
    (engine,) = cache.glob("*.engine")
    engine.write_bytes(engine.read_bytes()[:1000])
    assert Detector.load(folder, backend="tensorrt").info()["facts"]["engine"] == "built"


def test_an_engine_that_cannot_be_kept_is_an_error(registry, folder, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("DATASENTINEL_CACHE_DIR", str(tmp_path / "file" / "cache"))
    words = "the engine cannot be kept in '.*/file/cache/engines': is there space, and may you write there"
    with pytest.raises(BackendError, match=words):
        backend.build_engines(load_artifact(folder), [89])
