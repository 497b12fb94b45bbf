"""Contributions and reasons: against float64, on every backend, and of models that have none."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from datasentinel import Detector, Reason
from datasentinel.errors import ArtifactError, InvalidInputError, UnsupportedModelError
from datasentinel.export.contributions import add_shares
from tests.networks import Network, write_artifact, write_prototype

D = 8
BACKENDS = ["onnxruntime", "fused", "auto"]
BATCHES = [1, 2, 7, 64, 300]


@pytest.fixture(scope="module")
def network() -> Network:
    return Network.random([D, 6, 3, 6, D])


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    return np.random.default_rng(1).normal(0, 3, (300, D)).astype(np.float32)


@pytest.fixture(scope="module")
def explaining(network, tmp_path_factory):
    """The folder of an additive model with contributions."""
    graph = network.to_onnx(with_contributions=True)
    return write_artifact(tmp_path_factory.mktemp("additive"), graph, input_dim=D, threshold=1.0)


@pytest.fixture(scope="module", params=BACKENDS)
def detector(request, explaining) -> Detector:
    return Detector.load(explaining, backend=request.param)


@pytest.mark.parametrize("batch", BATCHES)
def test_contributions_are_the_terms_of_the_score(detector, network, rows, batch):
    x = rows[:batch]
    contributions = detector.contributions(x)
    assert contributions.dtype == np.float32
    assert contributions.shape == x.shape
    assert (contributions >= 0).all()
    np.testing.assert_allclose(contributions, network.reference_contributions(x), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(contributions.sum(axis=1, dtype=np.float64), detector.score(x), rtol=1e-5)


def test_asking_for_contributions_changes_no_score(explaining, network, rows, tmp_path):
    silent = write_artifact(tmp_path, network.to_onnx(), input_dim=D, threshold=1.0)
    for backend in ("onnxruntime", "fused"):
        explains, scores_only = (Detector.load(folder, backend=backend) for folder in (explaining, silent))
        before = explains.score(rows)
        explains.contributions(rows)
        np.testing.assert_array_equal(explains.score(rows), before)
        np.testing.assert_allclose(before, scores_only.score(rows), rtol=1e-6)


def test_contributions_take_what_score_takes(detector, rows):
    expected = detector.contributions(rows)
    out = np.empty_like(rows)
    assert detector.contributions(rows, out=out) is out
    np.testing.assert_array_equal(out, expected)
    np.testing.assert_array_equal(detector.contributions(rows.astype(np.float64).tolist()), expected)
    assert detector.contributions(rows[0]).shape == (D,)
    assert detector.contributions(rows[:0]).shape == (0, D)
    with pytest.raises(InvalidInputError, match="expected 8 values per row, got 7"):
        detector.contributions(rows[:, 1:])
    bad = rows.copy()
    bad[3, 2] = np.nan
    with pytest.raises(InvalidInputError, match=r"row 3, column 2 \('f2'\)"):
        detector.contributions(bad)


def test_contributions_are_finite_even_where_the_score_overflows(detector):
    x = np.zeros((2, D), np.float32)
    x[1, 4] = 1e30
    contributions = detector.contributions(x)
    assert np.isfinite(contributions).all()
    assert contributions[1, 4] == np.finfo(np.float32).max


def test_reasons_are_ranked_named_and_in_raw_units(detector, network, rows):
    expected = network.reference(rows)[1]
    contributions = detector.contributions(rows)
    explained = detector.explain(rows, top=3)
    assert len(explained) == len(rows)
    for i, reasons in enumerate(explained):
        columns = np.argsort(-contributions[i], kind="stable")[:3]
        assert [reason.feature for reason in reasons] == [f"f{column}" for column in columns]
        for reason, column in zip(reasons, columns, strict=True):
            assert reason.contribution == contributions[i, column]
            assert reason.value == rows[i, column]
            assert reason.expected == pytest.approx(expected[i, column], rel=1e-4, abs=1e-4)


def test_the_feature_that_was_moved_comes_first(detector, network, rows):
    # Far out in one column only: nothing that the others say predicts it.
    for column in range(D):
        x = network.mean.copy()
        x[column] += 50 * network.scale[column]
        residual = network.reference_contributions(x[np.newaxis])[0]
        (reasons,) = detector.explain(x)
        assert reasons[0].feature == f"f{residual.argmax()}"
        assert len(reasons) == 5


def test_top_is_at_most_all_features_and_at_least_one(detector, rows):
    assert [len(reasons) for reasons in detector.explain(rows[:2], top=100)] == [D, D]
    assert detector.explain(rows[:0]) == []
    with pytest.raises(InvalidInputError, match="top must be at least 1, got 0"):
        detector.explain(rows, top=0)


def test_a_reason_reads_well():
    reason = Reason("temperature", 0.5, 81.25, 20.125)
    assert str(reason) == "temperature=81.25 (expected 20.125)"
    assert str(dataclasses.replace(reason, expected=None)) == "temperature=81.25"
    with pytest.raises(dataclasses.FrozenInstanceError):
        reason.value = 1.0


@pytest.mark.parametrize(("backend", "batch"), [("onnxruntime", 1), ("onnxruntime", "batch"), ("fused", 1)])
def test_a_prototype_s_contributions_are_its_squared_errors(network, rows, tmp_path, backend, batch):
    graph = network.to_onnx(batch=batch, with_score=False)
    folder = write_prototype(tmp_path, graph, input_dim=D, threshold=0.5)
    detector = Detector.load(folder, backend=backend)
    x = rows[:50]
    expected = (x.astype(np.float64) - network.reference(x)[1]) ** 2 / D
    contributions = detector.contributions(x)
    np.testing.assert_allclose(contributions, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(contributions.sum(axis=1, dtype=np.float64), detector.score(x), rtol=1e-5)
    # Nobody named the columns.
    assert detector.explain(x)[0][0].feature == f"x{contributions[0].argmax()}"


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_model_that_cannot_tell_says_so(network, rows, tmp_path, backend):
    folder = write_artifact(tmp_path, network.to_onnx(), input_dim=D, threshold=1.0)
    detector = Detector.load(folder, backend=backend)
    for call in (detector.contributions, detector.explain):
        with pytest.raises(UnsupportedModelError, match="no output 'contributions'"):
            call(rows)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_model_without_reconstruction_expects_nothing(network, rows, tmp_path, backend):
    graph = network.to_onnx(with_output=False, with_contributions=True)
    detector = Detector.load(write_artifact(tmp_path, graph, input_dim=D, threshold=1.0), backend=backend)
    np.testing.assert_allclose(
        detector.contributions(rows), network.reference_contributions(rows), rtol=1e-4, atol=1e-5
    )
    assert {reason.expected for reasons in detector.explain(rows) for reason in reasons} == {None}


def test_contributions_of_another_width_are_refused_at_load(network, tmp_path):
    model = onnx.load_model_from_string(network.to_onnx())
    model.graph.node.append(helper.make_node("Identity", ["a0"], ["contributions"]))
    model.graph.output.append(helper.make_tensor_value_info("contributions", TensorProto.FLOAT, ["batch", 6]))
    folder = write_artifact(tmp_path, model.SerializeToString(), input_dim=D, threshold=1.0)
    with pytest.raises(ArtifactError, match=r"output 'contributions' of .* has 6 columns"):
        Detector.load(folder)


class _Graph:
    """Collects what `add_shares` adds to a graph of a linear residual and a scaled copy."""

    def __init__(self, weight: np.ndarray, gain: np.ndarray) -> None:
        self.nodes = [
            helper.make_node("MatMul", ["input", "weight"], ["y"]),
            helper.make_node("Sub", ["input", "y"], ["r"]),
            helper.make_node("Mul", ["input", "gain"], ["v"]),
        ]
        self.constants = {"weight": weight, "gain": gain}

    def constant(self, name, value):
        assert name not in self.constants
        self.constants[name] = value
        return name

    def add(self, operator, inputs, output, attributes=None):
        self.nodes.append(helper.make_node(operator, inputs, [output], name=output, **(attributes or {})))
        return output

    def to_onnx(self) -> bytes:
        self.constant("axis", np.array([1]))
        self.add("ReduceSumSquare", ["r", "axis"], "score", {"keepdims": 0})
        names = ("score", "contributions")
        shapes = (["batch"], ["batch", D])
        graph = helper.make_graph(
            self.nodes,
            "composite",
            [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", D])],
            [
                helper.make_tensor_value_info(n, TensorProto.FLOAT, s)
                for n, s in zip(names, shapes, strict=True)
            ],
            [numpy_helper.from_array(value, name) for name, value in self.constants.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
        onnx.checker.check_model(model, full_check=True)
        return model.SerializeToString()


@pytest.mark.parametrize("backend", ["onnxruntime", "fused"])
def test_shares_of_a_composite_score_add_up_to_one(rows, tmp_path, backend):
    random = np.random.default_rng(2)
    weight = random.normal(0, 0.3, (D, D)).astype(np.float32)
    gain = random.uniform(0.5, 2, D).astype(np.float32)
    graph = _Graph(weight, gain)
    assert add_shares(graph, residual="r", marginal="v", output="contributions") == "contributions"
    detector = Detector.load(
        write_artifact(tmp_path, graph.to_onnx(), input_dim=D, threshold=1.0), backend=backend
    )
    exact = rows.astype(np.float64)
    residual, marginal = (exact - exact @ weight) ** 2, (exact * gain) ** 2
    shares = [part / part.sum(axis=1, keepdims=True) for part in (residual, marginal)]
    for batch in BATCHES:
        contributions = detector.contributions(rows[:batch])
        np.testing.assert_allclose(contributions, np.mean(shares, axis=0)[:batch], rtol=1e-4, atol=1e-6)
    assert (contributions > 0).all()
    np.testing.assert_allclose(contributions.sum(axis=1), 1, rtol=1e-5)
    # A row that is just what it should be blames every feature alike.
    np.testing.assert_allclose(detector.contributions(np.zeros((1, D), np.float32)), 1 / D, rtol=1e-5)
