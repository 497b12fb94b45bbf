"""Detector: scores against a float64 reference, and what it says about input it cannot use."""

from __future__ import annotations

import threading
from decimal import Decimal

import numpy as np
import pytest

import datasentinel
from datasentinel import Detector
from datasentinel.calibration import calibrate
from datasentinel.errors import (
    ArtifactError,
    BackendUnavailableError,
    InvalidInputError,
    ModelNotFoundError,
    UnsupportedModelError,
)
from tests.networks import Network, write_artifact, write_prototype

D = 8


@pytest.fixture(scope="module")
def network() -> Network:
    return Network.random([D, 6, 3, 6, D])


@pytest.fixture(scope="module")
def folder(network, tmp_path_factory):
    return write_artifact(tmp_path_factory.mktemp("artifact"), network.to_onnx(), input_dim=D, threshold=1.0)


@pytest.fixture(scope="module")
def detector(folder) -> Detector:
    return Detector.load(folder, backend="onnxruntime")


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    return np.random.default_rng(1).normal(0, 3, (300, D)).astype(np.float32)


@pytest.mark.parametrize("batch", [1, 2, 7, 64, 300])
def test_scores_and_reconstructions_are_the_reference_s(detector, network, rows, batch):
    x = rows[:batch]
    scores, reconstruction = network.reference(x)
    np.testing.assert_allclose(detector.score(x), scores, rtol=1e-5)
    np.testing.assert_allclose(detector.reconstruct(x), reconstruction, rtol=1e-4, atol=1e-5)
    assert detector.score(x).dtype == np.float32
    assert detector.score(x).shape == (batch,)
    assert detector.reconstruct(x).shape == x.shape


def test_predict_is_strictly_above_the_threshold(network, rows, tmp_path):
    scores = Detector.load(
        write_artifact(tmp_path / "a", network.to_onnx(), input_dim=D, threshold=0.0)
    ).score(rows)
    at = float(scores[5])
    detector = Detector.load(write_artifact(tmp_path / "b", network.to_onnx(), input_dim=D, threshold=at))
    decisions = detector.predict(rows)
    assert decisions.dtype == np.bool_
    np.testing.assert_array_equal(decisions, scores > at)
    assert not decisions[5]


def test_a_single_row_may_be_one_dimensional(detector, rows):
    assert detector.score(rows[0]).shape == (1,)
    assert detector.score(rows[0])[0] == detector.score(rows[:1])[0]
    assert detector.reconstruct(rows[0]).shape == (D,)
    assert detector.predict(rows[0]).shape == (1,)


def test_no_rows_give_no_scores(detector):
    assert detector.score(np.empty((0, D), np.float32)).shape == (0,)


def test_out_is_written_and_returned(detector, rows):
    out = np.empty(len(rows), np.float32)
    assert detector.score(rows, out=out) is out
    np.testing.assert_array_equal(out, detector.score(rows))
    image = np.empty_like(rows)
    assert detector.reconstruct(rows, out=image) is image


@pytest.mark.parametrize(
    "out",
    [
        np.empty(299, np.float32),
        np.empty(300, np.float64),
        np.empty((300, 1), np.float32),
        np.empty(600, np.float32)[::2],
        [0.0] * 300,
    ],
)
def test_an_out_that_does_not_fit_is_refused(detector, rows, out):
    with pytest.raises(InvalidInputError, match=r"out must be .* shape \(300"):
        detector.score(rows, out=out)


def test_a_read_only_out_is_refused(detector, rows):
    out = np.empty(300, np.float32)
    out.flags.writeable = False
    with pytest.raises(InvalidInputError, match="writeable"):
        detector.score(rows, out=out)


@pytest.mark.parametrize(
    "convert",
    [
        lambda x: x.astype(np.float64),
        lambda x: x.tolist(),
        np.asfortranarray,
        lambda x: np.repeat(x, 2, axis=0)[::2],
        lambda x: x[:, ::-1].copy()[:, ::-1],
        lambda x: x.astype(">f4"),
        lambda x: x.astype(object),
        lambda x: np.array([[Decimal(float(value)) for value in row] for row in x]),
    ],
    ids=["float64", "list", "fortran", "strided", "reversed", "big-endian", "objects", "decimals"],
)
def test_other_layouts_score_the_same(detector, rows, convert):
    np.testing.assert_array_equal(detector.score(convert(rows)), detector.score(rows))


@pytest.mark.parametrize("dtype", [np.int64, np.int8, np.uint16, np.float16, np.bool_])
def test_other_dtypes_are_converted(detector, dtype):
    x = np.arange(D * 4).reshape(4, D) % 100
    np.testing.assert_array_equal(
        detector.score(x.astype(dtype)), detector.score(x.astype(dtype).astype(np.float32))
    )


def test_a_read_only_input_is_used_in_place(detector, rows):
    x = rows.copy()
    x.flags.writeable = False
    np.testing.assert_array_equal(detector.score(x), detector.score(rows))


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.zeros((3, D + 1), np.float32), "expected 8 values per row, got 9"),
        (np.zeros(D - 1), "expected 8 values per row, got 7"),
        (np.zeros((2, 2, D), np.float32), r"shape \[N, D\] or \[D\], got \(2, 2, 8\)"),
        (np.float32(1), r"shape \[N, D\] or \[D\]"),
        (np.zeros((2, D), np.complex64), "complex64"),
        (np.array([["a"] * D]), "real numbers"),
        ([[1.0] * D, [1.0]], "not a rectangular array"),
        (
            np.array([[1] * D, [1] * (D - 1) + ["2"]], object),
            "row 1, column 7 is of type str, not a real number",
        ),
        (np.full(D, 1j, object), "row 0, column 0 is of type complex"),
        (np.array([[1] * D, [1, None] + [1] * (D - 2)], object), r"non-finite value at row 1, column 1 "),
        (np.array([np.timedelta64(1, "s")] * D, object), "row 0, column 0 is of type timedelta64"),
    ],
)
def test_wrong_shapes_and_dtypes_are_named(detector, x, message):
    with pytest.raises(InvalidInputError, match=message):
        detector.score(x)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_non_finite_values_are_named_by_row_column_and_feature(detector, rows, bad, dtype):
    x = rows.astype(dtype)
    x[17, 5] = bad
    for call in (detector.score, detector.predict, detector.reconstruct):
        with pytest.raises(InvalidInputError, match=r"row 17, column 5 \('f5'\)"):
            call(x)


def test_a_value_outside_float32_is_not_called_infinite(detector):
    x = np.zeros((2, D))
    x[1, 3] = 1e39
    with pytest.raises(InvalidInputError, match=r"^value 1e\+39 at row 1, column 3 is outside float32"):
        detector.score(x)


def test_p_values_are_the_ranks_among_calibration_scores(network, rows, tmp_path):
    normal = np.random.default_rng(7).normal(0, 3, (500, D)).astype(np.float32)
    scores = Detector.load(
        write_artifact(tmp_path / "a", network.to_onnx(), input_dim=D, threshold=0.0)
    ).score(normal)
    calibration = calibrate(scores, method="conformal", target_fpr=0.05)
    detector = Detector.load(
        write_artifact(
            tmp_path / "b",
            network.to_onnx(),
            input_dim=D,
            threshold=calibration.threshold,
            calibration=calibration.facts(),
        )
    )
    p_values = detector.p_values(rows)
    assert p_values.dtype == np.float64
    at_least = (scores >= detector.score(rows)[:, np.newaxis]).sum(axis=1)
    expected = (1 + at_least) / 501
    assert (p_values >= expected).all()
    np.testing.assert_allclose(p_values, expected, rtol=0.02)
    np.testing.assert_array_equal(p_values[expected < 0.5], expected[expected < 0.5])
    assert detector.p_values(rows[0]).shape == (1,)
    assert sum(detector.scorer.score_counts) == 300 + 300 + 1


def test_p_values_need_calibration_scores(detector, rows):
    with pytest.raises(UnsupportedModelError, match="datasentinel recalibrate"):
        detector.p_values(rows)
    assert detector.scorer.score_counts == []


def test_an_extreme_row_is_an_anomaly_with_a_finite_score(detector):
    x = np.zeros((1, D), np.float32)
    x[0, 0] = 1e30
    assert detector.score(x)[0] == np.finfo(np.float32).max
    assert detector.predict(x)[0]


def test_an_unknown_backend_is_named(folder):
    with pytest.raises(InvalidInputError, match="unknown backend 'quantum'; known: auto, "):
        Detector.load(folder, backend="quantum")


def test_a_precision_is_known_and_the_backend_s_or_an_error(folder):
    with pytest.raises(InvalidInputError, match="unknown precision 'int3'; known: float32, "):
        Detector.load(folder, precision="int3")
    for backend, precision in (("fused", "tf32"), ("onnxruntime", "bf16")):
        with pytest.raises(UnsupportedModelError, match=precision):
            Detector.load(folder, backend=backend, precision=precision)


def test_a_named_backend_that_cannot_run_is_an_error(folder):
    status = next(status for status in datasentinel.backends() if status.name == "tensorrt")
    if status.availability == "available":
        pytest.skip("tensorrt runs here")
    with pytest.raises(BackendUnavailableError) as caught:
        Detector.load(folder, backend="tensorrt")
    assert str(caught.value) == status.detail


def test_auto_tells_what_it_passed_over(folder):
    info = Detector.load(folder).info()
    assert info["backend"] in {"onnxruntime", "fused"}
    assert "tensorrt" in info["refusals"]
    assert info["refusals"]["tensorrt"]


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(ModelNotFoundError, match="nothing-here"):
        Detector.load(tmp_path / "nothing-here")


def test_a_broken_graph_is_named(tmp_path):
    folder = write_artifact(tmp_path, b"\x08\x0a not a model", input_dim=D, threshold=1.0)
    with pytest.raises(ArtifactError, match=r"model\.onnx"):
        Detector.load(folder)


def test_a_config_that_contradicts_the_graph_is_an_error(network, tmp_path):
    folder = write_artifact(tmp_path, network.to_onnx(), input_dim=D + 1, threshold=1.0)
    with pytest.raises(ArtifactError, match=r"config\.json: input_dim is 9.*has 8 columns"):
        Detector.load(folder)


def test_a_graph_with_non_finite_weights_is_an_error(network, tmp_path):
    weights = [network.weights[0].copy(), *network.weights[1:]]
    weights[0][0, 0] = np.nan
    broken = Network(network.mean, network.scale, weights, network.biases)
    folder = write_artifact(tmp_path, broken.to_onnx(), input_dim=D, threshold=1.0)
    with pytest.raises(ArtifactError, match="w0"):
        Detector.load(folder)


@pytest.mark.parametrize("batch", [1, "batch"])
@pytest.mark.parametrize("backend", ["auto", "onnxruntime"])
def test_a_prototype_artifact_scores_the_mean_squared_error(network, rows, tmp_path, batch, backend):
    graph = network.to_onnx(batch=batch, with_score=False)
    detector = Detector.load(write_prototype(tmp_path, graph, input_dim=D, threshold=0.5), backend=backend)
    x = rows[:50]
    reconstruction = network.reference(x)[1]
    expected = ((x.astype(np.float64) - reconstruction) ** 2).mean(axis=1)
    np.testing.assert_allclose(detector.score(x), expected, rtol=1e-5)
    np.testing.assert_allclose(detector.reconstruct(x), reconstruction, rtol=1e-4, atol=1e-5)
    assert detector.feature_names == ()


def test_a_model_that_only_scores_says_so_when_asked_to_reconstruct(network, rows, tmp_path):
    graph = network.to_onnx(with_output=False)
    detector = Detector.load(
        write_artifact(tmp_path, graph, input_dim=D, threshold=1.0), backend="onnxruntime"
    )
    np.testing.assert_allclose(detector.score(rows), network.reference(rows)[0], rtol=1e-5)
    with pytest.raises(UnsupportedModelError, match="output"):
        detector.reconstruct(rows)


def test_many_threads_share_one_detector(detector, rows):
    expected = detector.score(rows)
    wrong: list[int] = []

    def work(offset: int) -> None:
        out = np.empty(50, np.float32)
        for turn in range(300):
            start = (offset * 37 + turn) % 250
            detector.score(rows[start : start + 50], out=out)
            if not np.allclose(out, expected[start : start + 50], rtol=1e-6, atol=0):
                wrong.append(turn)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_rows_are_counted(folder, rows):
    detector = Detector.load(folder)
    decisions = detector.predict(rows)
    detector.score(rows[0])
    assert detector.scorer.counts["rows"] == 301
    assert detector.scorer.counts["batches"] == 2
    assert detector.scorer.counts["anomalies"] == int(decisions.sum()) + int(decisions[0])


def test_severity_is_above_one_for_anomalies_only(network, rows, tmp_path):
    scores = Detector.load(
        write_artifact(tmp_path / "a", network.to_onnx(), input_dim=D, threshold=0.0)
    ).score(rows)
    threshold = float(np.sort(scores)[250])
    for moved in (threshold, np.nextafter(threshold, 0), np.nextafter(threshold, 9e9)):
        folder = write_artifact(tmp_path / "b", network.to_onnx(), input_dim=D, threshold=float(moved))
        detector = Detector.load(folder)
        severity = detector.severity(rows)
        np.testing.assert_allclose(severity, detector.score(rows) / moved, rtol=1e-6)
        np.testing.assert_array_equal(severity > 1, detector.predict(rows))
        assert severity.dtype == np.float32


def test_severity_of_extreme_scores_is_finite(network, rows, tmp_path):
    detector = Detector.load(write_artifact(tmp_path / "a", network.to_onnx(), input_dim=D, threshold=1e-30))
    assert np.isfinite(detector.severity(rows * np.float32(1e10))).all()


@pytest.mark.parametrize("threshold", [0.0, -1.5])
def test_severity_needs_a_positive_threshold(network, rows, tmp_path, threshold):
    folder = write_artifact(tmp_path / "a", network.to_onnx(), input_dim=D, threshold=threshold)
    with pytest.raises(UnsupportedModelError, match="not above 0"):
        Detector.load(folder).severity(rows)
