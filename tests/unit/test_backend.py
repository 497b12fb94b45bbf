"""Backends: what is said about each, and how ONNX Runtime is found."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import datasentinel
from datasentinel import backend, libraries
from datasentinel.errors import ArtifactError, InvalidInputError
from tests.networks import Network, write_artifact


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=os.environ | environment,
        check=False,
    )


def test_every_backend_is_listed_with_its_state():
    statuses = {status.name: status for status in datasentinel.backends()}
    assert list(statuses) == [
        "tensorrt",
        "fused-cuda",
        "onnxruntime-cuda",
        "onnxruntime-tensorrt",
        "fused",
        "onnxruntime",
    ]
    for status in statuses.values():
        assert status.availability in {"available", "not built", "library not found", "no device"}
        assert (status.availability == "available") == (status.detail == "")
    assert statuses["onnxruntime"].availability == "available"
    assert statuses["onnxruntime"].version.startswith("1.")
    assert Path(statuses["onnxruntime"].library).is_file()


def test_the_extension_has_the_package_s_version():
    import importlib.metadata

    assert datasentinel.__version__ == importlib.metadata.version("datasentinel")


def test_the_signature_of_a_graph_is_read_without_running_it():
    info = backend.inspect_model(Network.random([5, 2, 5]).to_onnx(), name="here")
    assert info.opset == 18
    assert [(value.name, value.dtype, value.shape) for value in info.inputs] == [
        ("input", "float32", (-1, 5))
    ]
    assert [value.name for value in info.outputs] == ["score", "output"]
    assert "Gemm" in info.operators


def test_a_truncated_graph_is_an_error():
    onnx = Network.random([5, 2, 5]).to_onnx()
    with pytest.raises(ArtifactError, match="here"):
        backend.inspect_model(onnx[: len(onnx) // 2], name="here")


def test_the_library_variable_wins_and_must_be_a_file():
    real, problem = libraries.find_onnxruntime()
    assert problem == ""
    code = "from datasentinel import libraries; print(libraries.find_onnxruntime())"
    assert real in run_python(code, DATASENTINEL_ONNXRUNTIME_LIBRARY=real).stdout
    assert "which is not a file" in run_python(code, DATASENTINEL_ONNXRUNTIME_LIBRARY="/nowhere").stdout


def test_a_library_that_is_not_onnxruntime_is_refused(tmp_path):
    code = (
        "import datasentinel; print([s.detail for s in datasentinel.backends() if s.name == 'onnxruntime'])"
    )
    (tmp_path / "fake.so").write_text("not a library")
    output = run_python(code, DATASENTINEL_ONNXRUNTIME_LIBRARY=str(tmp_path / "fake.so")).stdout
    assert "cannot open" in output
    other = next(Path(sys.prefix).rglob("_native*.so"), None) or next(
        Path(datasentinel.__file__).parent.glob("_native*.so")
    )
    output = run_python(code, DATASENTINEL_ONNXRUNTIME_LIBRARY=str(other)).stdout
    assert "has no symbol 'OrtGetApiBase'" in output


@pytest.fixture
def without_onnxruntime(monkeypatch):
    monkeypatch.delenv(libraries.ONNXRUNTIME_LIBRARY_VARIABLE, raising=False)
    monkeypatch.setattr(libraries.importlib.util, "find_spec", lambda _name: None)


@pytest.mark.usefixtures("without_onnxruntime")
def test_neither_wheel_says_what_to_install():
    path, problem = libraries.find_onnxruntime()
    assert path == ""
    assert "datasentinel[cpu]" in problem


def test_both_wheels_are_refused(monkeypatch):
    monkeypatch.delenv(libraries.ONNXRUNTIME_LIBRARY_VARIABLE, raising=False)
    monkeypatch.setattr(libraries, "_is_installed", lambda _distribution: True)
    path, problem = libraries.find_onnxruntime()
    assert path == ""
    assert "pip uninstall onnxruntime onnxruntime-gpu" in problem


def test_onnxruntime_s_own_words_reach_the_user(tmp_path):
    import onnx

    model = onnx.load_from_string(Network.random([5, 2, 5]).to_onnx())
    model.graph.node[2].op_type = "NoSuchOperator"
    folder = write_artifact(tmp_path, model.SerializeToString(), input_dim=5, threshold=1.0)
    with pytest.raises(datasentinel.errors.DataSentinelError, match="NoSuchOperator") as caught:
        datasentinel.Detector.load(folder, backend="onnxruntime")
    assert "NoSuchOperator" in caught.value.vendor_text


@pytest.mark.parametrize("module", ["datasentinel", "datasentinel.detector", "datasentinel.cli"])
def test_importing_brings_no_heavy_package(module):
    code = f"import sys, {module}; print([m for m in ('torch', 'onnx', 'onnxruntime', 'pandas', 'pyarrow') if m in sys.modules])"
    assert run_python(code).stdout.strip() == "[]"


def test_a_table_of_models_answers_by_name_and_version(tmp_path):
    artifact = write_artifact(tmp_path, Network.random([4, 2, 4]).to_onnx(), input_dim=4, threshold=1.0)
    old, new = (datasentinel.Detector.load(artifact, plan_budget_s=0).scorer for _ in range(2))
    models = backend.ModelTable()
    assert models.find() is None
    models.put("a", "1", old)
    generation = models.generation
    models.put("a", "2", new)
    assert models.generation > generation
    assert models.find() == models.find("a") == ("a", "2")
    assert models.find("a", "1") == ("a", "1")
    assert models.remove("a", "2")
    assert not models.remove("a", "2")
    assert models.find() == ("a", "1")
    models.set_default("b")
    assert models.find() is None
    with pytest.raises(InvalidInputError, match="needs a name"):
        models.put("", "1", old)
