"""Graphs that ONNX Runtime runs and that are no detectors: refused at load, with what a detector's graph has."""

from __future__ import annotations

import re

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from datasentinel import Detector, backend, libraries
from datasentinel.errors import BackendUnavailableError, UnsupportedModelError
from tests.networks import Network, write_artifact

FLOAT, DOUBLE = TensorProto.FLOAT, TensorProto.DOUBLE
MATRIX = ["batch", 4]


def artifact_of(folder, nodes, *, given=(FLOAT, MATRIX), outputs=(("output", FLOAT, MATRIX),)):
    graph = helper.make_graph(
        [helper.make_node(*node[:3], **node[3]) for node in nodes],
        "graph",
        [helper.make_tensor_value_info("input", *given)],
        [helper.make_tensor_value_info(*output) for output in outputs],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return write_artifact(folder, model.SerializeToString(), input_dim=4, threshold=1.0)


def mean(name: str, keepdims: int) -> tuple:
    return ("ReduceMean", ["input"], [name], {"axes": [1], "keepdims": keepdims})


RELU = ("Relu", ["input"], ["output"], {})
CAST = ("Cast", ["input"], ["output"], {"to": FLOAT})


@pytest.mark.parametrize(
    ("nodes", "kinds", "words"),
    [
        ([CAST], {"given": (DOUBLE, MATRIX)}, r"input 'input' must be float32 \[batch, D\] with a fixed D"),
        (
            [RELU],
            {"given": (FLOAT, ["batch", "D"]), "outputs": [("output", FLOAT, ["batch", "D"])]},
            r"input 'input' must be float32 \[batch, D\] with a fixed D",
        ),
        (
            [RELU],
            {"given": (FLOAT, ["batch", 4, 1]), "outputs": [("output", FLOAT, ["batch", 4, 1])]},
            r"input 'input' must be float32 \[batch, D\] with a fixed D",
        ),
        (
            [RELU],
            {"given": (FLOAT, [5, 4]), "outputs": [("output", FLOAT, [5, 4])]},
            "input 'input' has a fixed batch of 5; export it with a dynamic batch axis",
        ),
    ],
    ids=["float64", "any width", "three axes", "batches of five"],
)
def test_an_input_that_no_row_fits_is_refused(tmp_path, nodes, kinds, words):
    with pytest.raises(UnsupportedModelError, match=f": {words}$"):
        Detector.load(artifact_of(tmp_path, nodes, **kinds), backend="onnxruntime")


@pytest.mark.parametrize(
    ("nodes", "outputs"),
    [
        ([("Relu", ["input"], ["other"], {})], [("other", FLOAT, MATRIX)]),
        ([("Cast", ["input"], ["output"], {"to": DOUBLE})], [("output", DOUBLE, MATRIX)]),
        ([("Relu", ["input"], ["score"], {})], [("score", FLOAT, MATRIX)]),
        ([("ReduceMean", ["input"], ["output"], {"axes": [0, 1], "keepdims": 0})], [("output", FLOAT, [])]),
    ],
    ids=["another name", "float64", "a score for each column", "one number for all rows"],
)
def test_outputs_that_are_no_detector_s_are_refused(tmp_path, nodes, outputs):
    words = r"needs an output 'score' float32 \[batch\] or 'output' float32 \[batch, 4\]$"
    with pytest.raises(UnsupportedModelError, match=words):
        Detector.load(artifact_of(tmp_path, nodes, outputs=outputs), backend="onnxruntime")


@pytest.mark.parametrize("keepdims", [0, 1])
def test_scores_may_have_an_axis_of_their_own_and_stand_beside_other_outputs(tmp_path, keepdims):
    nodes = [mean("score", keepdims), ("Cast", ["input"], ["contributions"], {"to": DOUBLE})]
    outputs = [
        ("score", FLOAT, ["batch", 1] if keepdims else ["batch"]),
        ("contributions", DOUBLE, MATRIX),
    ]
    detector = Detector.load(artifact_of(tmp_path, nodes, outputs=outputs), backend="onnxruntime")
    rows = np.arange(12, dtype=np.float32).reshape(3, 4)
    np.testing.assert_array_equal(detector.score(rows), rows.mean(axis=1))
    with pytest.raises(
        UnsupportedModelError, match="does not explain its scores; it has no output 'contributions'"
    ):
        detector.contributions(rows)


def test_a_precision_of_its_own_is_refused(tmp_path):
    folder = write_artifact(tmp_path, Network.random([4, 2, 4]).to_onnx(), input_dim=4, threshold=1.0)
    words = "computes in the precision of the graph; precision 'bf16' is not available$"
    with pytest.raises(UnsupportedModelError, match=words):
        Detector.load(folder, backend="onnxruntime", precision="bf16")


def test_without_a_backend_the_reason_of_each_is_told(tmp_path, monkeypatch):
    folder = artifact_of(tmp_path, [("Acosh", ["input"], ["output"], {})])
    monkeypatch.setenv(libraries.ONNXRUNTIME_LIBRARY_VARIABLE, str(tmp_path / "absent"))
    backend._registry.cache_clear()
    try:
        with pytest.raises(BackendUnavailableError) as caught:
            Detector.load(folder)
    finally:
        backend._registry.cache_clear()
    message = str(caught.value)
    assert message.startswith("no backend can run this model; ")
    assert re.search(r"; onnxruntime: library not found: .*/absent', which is not a file", message)
    assert re.search(r"; fused: .*Acosh", message)
