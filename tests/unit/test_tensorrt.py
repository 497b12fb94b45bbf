"""The tensorrt backend as far as a machine without a GPU can tell, against NVIDIA's real lean runtime."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from datasentinel import Detector, backend, gpu
from datasentinel.cli import cli
from datasentinel.errors import BackendUnavailableError, InvalidInputError
from datasentinel.gpu import EngineOptions
from tests.networks import Network, write_artifact

HEADERS = backend.build_info()["TensorRT headers"]
needs_headers = pytest.mark.skipif(HEADERS == "none", reason="built without TensorRT's headers (docs/gpu.md)")


@pytest.fixture
def lean_folder() -> Path:
    for folder in gpu._package_folders("tensorrt_lean_libs"):
        return folder
    pytest.skip("the wheel tensorrt-lean-cu13-libs is not installed")


def status_with(library: str, **environment: str) -> str:
    code = (
        "import datasentinel\n"
        "s = next(s for s in datasentinel.backends() if s.name == 'tensorrt')\n"
        "print(s.availability, '|', s.detail)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=os.environ | {"DATASENTINEL_TENSORRT_LIBRARY": library} | environment,
        check=True,
    )
    return run.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    onnx = Network.random([5, 2, 5]).to_onnx()
    return write_artifact(tmp_path_factory.mktemp("model"), onnx, input_dim=5, threshold=1.0)


def test_a_build_without_headers_says_so_and_where_to_read_on():
    if HEADERS != "none":
        pytest.skip(f"built with the headers of TensorRT {HEADERS}")
    status = next(status for status in backend.backends() if status.name == "tensorrt")
    assert status.availability == "not built"
    assert "no tensorrt backend: it was" in status.detail
    assert "docs/gpu.md" in status.detail


def test_the_variable_must_name_something(monkeypatch, tmp_path):
    monkeypatch.setenv(gpu.TENSORRT_LIBRARY_VARIABLE, str(tmp_path / "nowhere"))
    path, problem = gpu.find_tensorrt()
    assert path == ""
    assert "nowhere' which does not exist" in problem.replace(",", "")
    monkeypatch.setenv(gpu.TENSORRT_LIBRARY_VARIABLE, str(tmp_path))
    assert gpu.find_tensorrt() == (str(tmp_path), "")


def test_no_wheel_says_what_to_install(monkeypatch):
    monkeypatch.delenv(gpu.TENSORRT_LIBRARY_VARIABLE, raising=False)
    monkeypatch.setattr(gpu.importlib.util, "find_spec", lambda _name: None)
    path, problem = gpu.find_tensorrt()
    assert path == ""
    assert "datasentinel[gpu]" in problem


def test_the_wheel_is_found_without_importing_it(lean_folder, monkeypatch):
    monkeypatch.delenv(gpu.TENSORRT_LIBRARY_VARIABLE, raising=False)
    monkeypatch.setattr(gpu, "_TENSORRT_PACKAGES", ("tensorrt_lean_libs",))
    assert gpu.find_tensorrt() == (str(lean_folder), "")
    assert "tensorrt_lean_libs" not in sys.modules


@needs_headers
def test_the_real_library_without_a_driver_is_no_device(lean_folder):
    if Path("/dev/nvidiactl").exists():
        pytest.skip("this machine has an NVIDIA driver")
    if not any(lean_folder.glob(f"*.so.{HEADERS.partition('.')[0]}")):
        pytest.skip("the wheel is of another major version than the headers")
    answer = status_with(str(lean_folder))
    assert answer.startswith("no device | no CUDA device: cudaGetDeviceCount says:")
    assert "no NVIDIA driver is installed" in answer


@needs_headers
def test_a_folder_without_the_library_is_named(tmp_path):
    answer = status_with(str(tmp_path))
    assert answer.startswith("library not found |")
    assert f"'{tmp_path}' has no libnvinfer.so." in answer


@needs_headers
def test_another_major_version_is_named(tmp_path):
    (tmp_path / "libnvinfer.so.8").touch()
    answer = status_with(str(tmp_path))
    assert "only libnvinfer.so.8" in answer
    assert f"its headers were {HEADERS}" in answer


@needs_headers
def test_a_library_that_is_none_is_refused(tmp_path):
    (tmp_path / "libnvinfer.so").write_text("not a library")
    assert "cannot open" in status_with(str(tmp_path / "libnvinfer.so"))


def test_named_it_is_an_error_and_auto_goes_on(folder):
    status = next(status for status in backend.backends() if status.name == "tensorrt")
    if status.availability == "available":
        pytest.skip("tensorrt runs here")
    with pytest.raises(BackendUnavailableError):
        Detector.load(folder, backend="tensorrt")
    refusals = Detector.load(folder, plan_budget_s=0).info()["refusals"]
    assert refusals["tensorrt"] == f"{status.availability}: {status.detail}"


def test_build_engine_refuses_with_the_reason(folder):
    status = next(status for status in backend.backends() if status.name == "tensorrt")
    if status.availability == "available":
        pytest.skip("tensorrt runs here")
    result = CliRunner().invoke(cli, ["build-engine", str(folder)])
    assert result.exit_code != 0
    assert isinstance(result.exception, BackendUnavailableError)


@pytest.mark.parametrize(
    "options", [{"optimization_level": 6}, {"optimization_level": -1}, {"max_rows": 0}, {"workspace_mib": -1}]
)
def test_options_out_of_range_are_refused(options):
    with pytest.raises(InvalidInputError, match=next(iter(options))):
        EngineOptions(**options)


@pytest.mark.gpu
def test_scores_are_the_reference_s_and_the_engine_is_kept(folder, tmp_path, monkeypatch):
    status = next(status for status in backend.backends() if status.name == "tensorrt")
    if status.availability != "available":
        pytest.skip(f"tensorrt is {status.availability}: {status.detail}")
    import numpy as np

    monkeypatch.setenv("DATASENTINEL_CACHE_DIR", str(tmp_path))
    network = Network.random([5, 2, 5])
    rows = np.random.default_rng(0).normal(0, 3, (20_000, 5)).astype(np.float32)
    expected = network.reference(rows)[0]
    first = Detector.load(folder, backend="tensorrt")
    assert first.info()["facts"]["engine"] == "built"
    for size in (1, 2, 3, 64, 65, 1000, 20_000):
        np.testing.assert_allclose(first.score(rows[:size]), expected[:size], rtol=1e-4)
    assert Detector.load(folder, backend="tensorrt").info()["facts"]["engine"] == "from the cache"
    (engine,) = (tmp_path / "engines").glob("*.engine")
    engine.write_bytes(engine.read_bytes()[:1000])
    assert Detector.load(folder, backend="tensorrt").info()["facts"]["engine"] == "built"
