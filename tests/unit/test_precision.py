"""Models in a lower precision: what changes, what stays, and that the reports are true."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

from datasentinel import AutoencoderDetector, Detector
from datasentinel.artifact import load_artifact
from datasentinel.cli import cli
from datasentinel.errors import DataError, InvalidInputError, UnsupportedModelError
from datasentinel.export.precision import change_precision, convert, network_layers
from tests.networks import Network, write_artifact
from tests.recordings import oscillations

D = 16


@pytest.fixture(scope="module")
def network() -> Network:
    return Network.random([D, 32, 8, 32, D])


@pytest.fixture(scope="module")
def rows(network) -> np.ndarray:
    random = np.random.default_rng(1)
    return (network.mean + network.scale * random.normal(size=(3000, D))).astype(np.float32)


@pytest.fixture(scope="module")
def artifact(network, rows, tmp_path_factory):
    threshold = float(np.quantile(network.reference(rows)[0], 0.9))
    onnx_bytes = network.to_onnx(with_contributions=True)
    folder = write_artifact(
        tmp_path_factory.mktemp("model"), onnx_bytes, input_dim=D, threshold=threshold, note="kept"
    )
    return load_artifact(folder)


def signature(onnx_bytes: bytes) -> list[tuple[str, int]]:
    graph = onnx.load_model_from_string(onnx_bytes).graph
    return [(value.name, value.type.tensor_type.elem_type) for value in [*graph.input, *graph.output]]


def rounded_to_fp16(network: Network, rows: np.ndarray) -> np.ndarray:
    """The reference's scores with the layers' weights, inputs and results rounded to fp16."""

    def fp16(values):
        return values.astype(np.float16).astype(np.float64)

    z = (rows.astype(np.float64) - network.mean) / network.scale
    h = z
    for index, (weight, bias) in enumerate(zip(network.weights, network.biases, strict=True)):
        h = fp16(fp16(h) @ fp16(weight) + fp16(bias))
        if index + 1 < len(network.weights):
            h = np.maximum(h, 0)
    return ((z - h) ** 2).mean(axis=1)


def test_fp16_is_what_fp16_weights_give(network, rows, artifact, tmp_path):
    change_precision(artifact, "fp16", tmp_path, rows=rows)
    scores = Detector.load(tmp_path, backend="onnxruntime").score(rows)
    # Both round each layer to 11 bits, not always the same way.
    np.testing.assert_allclose(scores, rounded_to_fp16(network, rows), rtol=5e-3)
    assert np.abs(scores / network.reference(rows)[0] - 1).max() > 1e-5


@pytest.mark.parametrize(("precision", "element"), [("fp16", "FLOAT16"), ("int8", "INT8")])
def test_the_layers_weights_have_the_precision(artifact, rows, precision, element):
    converted, layers = convert(artifact.onnx, precision, calibration_rows=rows)
    assert layers == 4
    types = [
        onnx.TensorProto.DataType.Name(value.data_type)
        for value in onnx.load_model_from_string(converted).graph.initializer
        if len(value.dims) == 2
    ]
    assert types == [element] * 4
    assert signature(converted) == signature(artifact.onnx)


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_what_is_reported_is_true(network, artifact, rows, precision, tmp_path):
    labels = network.reference(rows)[0] > artifact.config.threshold
    change = change_precision(artifact, precision, tmp_path, rows=rows, labels=labels)
    before = network.reference(rows)[0]
    detector = Detector.load(tmp_path, backend="onnxruntime")
    after = detector.score(rows).astype(np.float64)
    quartiles = np.percentile(before, [25, 75])
    error = np.abs(after - before) / (quartiles[1] - quartiles[0])
    assert change.median_error == pytest.approx(np.median(error), rel=0.02)
    assert change.greatest_error == pytest.approx(error.max(), rel=0.02)
    assert change.auroc_before == pytest.approx(1.0, abs=1e-4)
    assert 0.9 < change.auroc_after <= 1.0
    changed = (before > detector.threshold) != (after > detector.threshold)
    assert change.decisions_changed == pytest.approx(changed.mean(), abs=1e-3)
    limit = {"fp16": 0.01, "int8": 0.2}[precision]
    assert 0 < change.median_error < limit
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["precision"]["arithmetic"] == precision
    assert written["precision"]["median_error"] == change.median_error
    assert written["note"] == "kept"


def test_large_raw_values_do_not_overflow_fp16(network, tmp_path):
    # Raw units far beyond fp16's 65504: scaling must stay in float32.
    shifted = Network(
        mean=(network.mean + 1e6).astype(np.float32),
        scale=network.scale * 1000,
        weights=network.weights,
        biases=network.biases,
    )
    random = np.random.default_rng(2)
    rows = (shifted.mean + shifted.scale * random.normal(size=(500, D))).astype(np.float32)
    folder = write_artifact(tmp_path / "a", shifted.to_onnx(), input_dim=D, threshold=1.0)
    change_precision(load_artifact(folder), "fp16", tmp_path / "b", rows=rows)
    scores = Detector.load(tmp_path / "b", backend="onnxruntime").score(rows)
    np.testing.assert_allclose(scores, shifted.reference(rows)[0], rtol=0.02)


def test_auto_and_fused_run_quantised_layers(artifact, rows, tmp_path):
    change_precision(artifact, "int8", tmp_path, rows=rows)
    info = Detector.load(tmp_path, plan_budget_s=0.05).info()
    # A last bit more or less is a step of a whole number here and there, which auto takes for a disagreement.
    assert info["backend"] == "fused" or "disagree" in info["refusals"]["fused"]
    scores, expected = (
        Detector.load(tmp_path, backend=backend).score(rows) for backend in ("fused", "onnxruntime")
    )
    error = np.abs(scores - expected) / expected
    assert np.median(error) < 1e-5
    assert error.max() < 0.05


def test_a_model_without_layers_is_refused(rows):
    network = Network.random([D, D])
    with pytest.raises(UnsupportedModelError, match="no layer next to an activation"):
        convert(network.to_onnx(), "fp16", calibration_rows=rows)


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_a_model_with_memory_is_refused(precision):
    values = oscillations(1500)
    artifact = AutoencoderDetector(model="context").fit(values).artifact_
    with pytest.raises(UnsupportedModelError, match="has a memory, which is kept in float32"):
        convert(artifact.onnx, precision, calibration_rows=values)


def test_a_converted_model_is_not_converted_again(artifact, rows):
    converted, _ = convert(artifact.onnx, "fp16", calibration_rows=rows)
    with pytest.raises(UnsupportedModelError, match="already"):
        convert(converted, "int8", calibration_rows=rows)


def test_rows_of_another_width_are_refused(artifact, tmp_path):
    with pytest.raises(DataError, match=r"expected \[N, 16\]"):
        change_precision(artifact, "int8", tmp_path, rows=np.zeros((10, 3), np.float32))
    with pytest.raises(DataError, match="no normal rows"):
        change_precision(
            artifact, "int8", tmp_path, rows=np.zeros((10, D), np.float32), labels=np.ones(10, bool)
        )


def test_only_layers_next_to_an_activation_are_named(network):
    layers, rest = network_layers(onnx.load_model_from_string(network.to_onnx()))
    assert layers == ["dense0", "dense1", "dense2", "dense3"]
    assert rest == ["relu0", "relu1", "relu2"]


def test_the_default_model_keeps_its_quality(tmp_path):
    random = np.random.default_rng(3)
    causes = random.normal(size=(800, 2))
    values = np.column_stack([causes, causes @ [1, 2], causes @ [-1, 1]])
    values = (20 + 5 * (values + 0.05 * random.normal(size=values.shape))).astype(np.float32)
    labels = np.arange(800) % 10 == 0
    values[labels, :2] = np.roll(values[labels, :2], 1, axis=0)
    np.savez(tmp_path / "data.npz", X=values, y=labels)
    arguments = ["train", str(tmp_path / "data.npz"), "--steps", "30", "--out", str(tmp_path / "fp16")]
    result = CliRunner().invoke(cli, [*arguments, "--precision", "fp16"])
    assert result.exit_code == 0, result.output
    assert "precision   fp16 in " in result.output
    fp16 = load_artifact(tmp_path / "fp16")
    facts = fp16.config.extra["precision"]
    assert facts["auroc_before"] > 0.9
    assert abs(facts["auroc_after"] - facts["auroc_before"]) < 0.01
    assert fp16.config.threshold > 0
    assert Detector.load(fp16.directory, backend="onnxruntime").score(values).shape == (800,)


def test_the_command_converts_and_reports(artifact, rows, tmp_path, caplog):
    np.save(tmp_path / "rows.npy", rows)
    arguments = ["export", str(artifact.directory), "--out", str(tmp_path / "new"), "--precision", "int8"]
    result = CliRunner().invoke(cli, [*arguments, "--data", str(tmp_path / "rows.npy")])
    assert result.exit_code == 0, result.output
    assert "int8 in 4 layers" in result.output
    assert not caplog.messages  # Of onnxruntime's converter.
    assert load_artifact(tmp_path / "new").config.extra["precision"]["arithmetic"] == "int8"
    assert CliRunner().invoke(cli, arguments).exit_code == 2


def test_the_command_copies_fp32(artifact, tmp_path):
    result = CliRunner().invoke(cli, ["export", str(artifact.directory), "--out", str(tmp_path / "new")])
    assert result.exit_code == 0, result.output
    assert load_artifact(tmp_path / "new").onnx == artifact.onnx


def test_a_precision_is_changed_without_torch(artifact, rows, tmp_path):
    np.save(tmp_path / "rows.npy", rows)
    code = "import sys; sys.modules['torch'] = None; from datasentinel.cli import cli; cli()"
    arguments = ["export", str(artifact.directory), "--out", str(tmp_path / "new"), "--precision", "fp16"]
    run = subprocess.run(
        [sys.executable, "-c", code, *arguments, "--data", str(tmp_path / "rows.npy")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert load_artifact(tmp_path / "new").config.extra["precision"]["arithmetic"] == "fp16"


def test_exporting_what_was_trained_says_that_it_needs_torch():
    code = "import sys; sys.modules['torch'] = None; from datasentinel.export import export_artifact"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert 'export needs torch: pip install "datasentinel[train]"' in run.stderr


def test_what_fp16_cannot_hold_is_refused(tmp_path):
    network = Network.random([D, 8, D])
    network.weights[0][0, 0] = 1e5
    with pytest.raises(UnsupportedModelError, match="leaves the range of fp16"):
        convert(network.to_onnx(), "fp16", calibration_rows=np.zeros((1, D), np.float32))
    with pytest.raises(InvalidInputError, match="unknown precision 'fp8'; known: "):
        convert(network.to_onnx(), "fp8", calibration_rows=np.zeros((1, D), np.float32))
