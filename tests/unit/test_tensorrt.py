"""The tensorrt backend as far as a machine without a GPU can tell, against NVIDIA's real lean runtime."""

from __future__ import annotations

import os
import shutil
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

# The versions whose headers this build saw, by major: a module each.
HEADERS = {
    int(version.partition(".")[0]): version
    for version in backend.build_info()["TensorRT headers"].split(" and ")
    if version != "none"
}
MODULES = Path(backend._native.__file__).parent
needs_headers = pytest.mark.skipif(not HEADERS, reason="built without TensorRT's headers (docs/gpu.md)")


def lean_library(major: int) -> Path:
    """The real libnvinfer, full or lean, of a major version: from the wheel, or where the variable says."""
    folders = gpu._package_folders("tensorrt_lean_libs")
    folders += [Path(name) for name in os.environ.get("DATASENTINEL_TEST_TENSORRT", "").split(":") if name]
    for folder in folders:
        for stem in ("libnvinfer", "libnvinfer_lean"):
            if (library := folder / f"{stem}.so.{major}").exists():
                return library
    pytest.skip(f"no libnvinfer {major}: tensorrt-lean-cu13-libs or DATASENTINEL_TEST_TENSORRT gives one")


def status_with(library: object, **environment: str) -> str:
    """Give what the backend says of `library`, and the modules of ours that the process has open then."""
    code = (
        "import datasentinel, pathlib, re\n"
        "s = next(s for s in datasentinel.backends() if s.name == 'tensorrt')\n"
        "print(s.availability, '|', s.detail)\n"
        "print(sorted(set(re.findall(r'/(_tensorrt\\d+)\\.so', pathlib.Path('/proc/self/maps').read_text()))))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=os.environ | {"DATASENTINEL_TENSORRT_LIBRARY": str(library)} | environment,
        check=True,
    )
    return run.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    onnx = Network.random([5, 2, 5]).to_onnx()
    return write_artifact(tmp_path_factory.mktemp("model"), onnx, input_dim=5, threshold=1.0)


def test_a_build_without_headers_says_so_and_where_to_read_on():
    if HEADERS:
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


def test_the_wheel_is_found_without_importing_it(tmp_path, monkeypatch):
    monkeypatch.delenv(gpu.TENSORRT_LIBRARY_VARIABLE, raising=False)
    package = tmp_path / "tensorrt_lean_libs"
    package.mkdir()
    (package / "__init__.py").write_text("raise AssertionError('imported')")
    (package / "libnvinfer_lean.so.11").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(gpu, "_TENSORRT_PACKAGES", ("tensorrt_lean_libs",))
    assert gpu.find_tensorrt() == (str(package), "")


@needs_headers
@pytest.mark.parametrize("major", [10, 11])
def test_the_module_is_chosen_by_the_library(major, tmp_path):
    real = lean_library(major)
    library = tmp_path / real.name
    library.symlink_to(real)
    for hint in (library, tmp_path):
        answer = status_with(hint)
        if major not in HEADERS:
            assert answer.startswith(f"not built | '{library}' is TensorRT {major}.")
            assert "this build serves TensorRT " in answer
            assert answer.endswith("[]\n")
            continue
        assert answer.endswith(f"['_tensorrt{major}']\n")
        if Path("/dev/nvidiactl").exists():
            continue
        assert answer.startswith("no device | no CUDA device: cudaGetDeviceCount says:")
        assert "no NVIDIA driver is installed" in answer
        assert f"; '{library}' is TensorRT {major}." in answer


@needs_headers
@pytest.mark.parametrize("major", sorted(HEADERS))
def test_a_module_shows_its_factory_and_nothing_else(major):
    if shutil.which("nm") is None:
        pytest.skip("nm (binutils) is not installed")
    command = ["nm", "--dynamic", "--defined-only", str(MODULES / f"_tensorrt{major}.so")]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert [line.split()[-1] for line in shown.splitlines()] == ["datasentinel_tensorrt_backend"]


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
    assert all(version in answer.partition("its headers were")[2] for version in HEADERS.values())


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
