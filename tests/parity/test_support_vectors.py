"""Support vector machines on the fused backend, against float64 and against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper
from skl2onnx import to_onnx
from sklearn.svm import OneClassSVM

from datasentinel import gpu
from datasentinel.errors import ArtifactError, UnsupportedModelError
from datasentinel.foreign import wrap
from tests.parity.fused_scorer import load
from tests.parity.test_batch_invariance import assert_same_in_every_batch
from tests.parity.tree_models import D, model_of, run

PARAMETERS = {
    "RBF": [0.2, 0.0, 0.0],
    "LINEAR": [0.0] * 3,
    "SIGMOID": [0.1, -0.3, 0.0],
    "POLY": [0.2, 0.7, 3.0],
}


def machine(kernel, vectors, *, center=0.0, seed=0, **attributes):
    """A graph, and what the specification says of rows, in float64; beside it, the coefficients' magnitude."""
    rng = np.random.default_rng(seed)
    points = (center + rng.normal(size=(vectors, D))).astype(np.float32)
    coefficients = rng.uniform(-1, 2, vectors or D).astype(np.float32)
    gamma, offset, degree = (float(np.float32(p)) for p in PARAMETERS[kernel])
    rho = np.float32(-0.7)
    given = {
        "kernel_type": kernel,
        "kernel_params": PARAMETERS[kernel],
        "support_vectors": points.ravel(),
        "coefficients": coefficients,
        "rho": [rho],
        "n_supports": vectors,
        "post_transform": "NONE",
        **attributes,
    }
    given = {name: value for name, value in given.items() if np.size(value) > 0}
    node = helper.make_node(
        "SVMRegressor", ["input"], ["score"], name="machine", domain="ai.onnx.ml", **given
    )

    def exact(x):
        x = x.astype(np.float64)
        if vectors == 0:
            return x @ coefficients.astype(np.float64) + rho
        v = points.astype(np.float64)
        kernels = {
            "RBF": lambda: np.exp(-gamma * ((x[:, None] - v) ** 2).sum(axis=2)),
            "LINEAR": lambda: x @ v.T,
            "SIGMOID": lambda: np.tanh(gamma * x @ v.T + offset),
            "POLY": lambda: (gamma * x @ v.T + offset) ** degree,
        }[kernel]()
        return kernels @ coefficients.astype(np.float64) + rho

    return model_of(node), exact, np.abs(coefficients).sum()


def rows(count, center=0.0, seed=1):
    return (center + np.random.default_rng(seed).normal(size=(count, D))).astype(np.float32)


@pytest.mark.parametrize(
    ("kernel", "vectors"), [("LINEAR", 0), *((kernel, n) for kernel in PARAMETERS for n in (1, 17, 200))]
)
def test_machines_are_what_the_specification_says(isa, kernel, vectors):
    model, exact, magnitude = machine(kernel, vectors)
    x = rows(100)
    expected = exact(x)
    largest = max(1, magnitude * (30 if kernel in ("LINEAR", "POLY") else 1))
    np.testing.assert_allclose(load(model, dim=D).score(x), expected, rtol=1e-6, atol=5e-7 * largest)
    np.testing.assert_allclose(run(model, x)[:, 0], expected, rtol=1e-5, atol=2e-6 * largest)


def test_far_from_the_origin_distances_keep_their_digits(isa):
    """|x|^2 - 2 x v + |v|^2 would leave none of them: squares of 10,000 are rounded to multiples of 8."""
    model, exact, magnitude = machine("RBF", 60, center=1e4)
    x = rows(80, center=1e4)
    assert np.ptp(exact(x)) > 1
    np.testing.assert_allclose(load(model, dim=D).score(x), exact(x), rtol=1e-6, atol=3e-7 * magnitude)


@pytest.mark.parametrize("kernel", ["RBF", "POLY"])
def test_the_same_bits_in_every_batch(isa, kernel):
    model, _, _ = machine(kernel, 45)
    assert_same_in_every_batch(model, rows(100), (1, 2, 3, 7, 16, 17, 33, 64))


@pytest.mark.parametrize("kernel", ["rbf", "linear", "sigmoid", "poly"])
def test_one_class_machines_as_converters_write_them(tmp_path, kernel):
    train, x = rows(300, seed=2), rows(200, seed=3) * 2
    machine = OneClassSVM(kernel=kernel, nu=0.1, coef0=0.2).fit(train.astype(np.float64))
    path = tmp_path / "machine.onnx"
    onnx = to_onnx(machine, train[:1], target_opset={"": 18, "ai.onnx.ml": 3})
    path.write_bytes(onnx.SerializeToString())
    wrapped = wrap(path, sample=train[:2], higher_is="normal")
    expected = -machine.decision_function(x.astype(np.float64))
    # The file has the coefficients and vectors in float32.
    terms = np.abs(machine.dual_coef_).sum() * (np.abs(expected).max() if kernel == "poly" else 1)
    scores = load(wrapped.onnx, dim=D).score(x)
    np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-6 * terms)
    np.testing.assert_allclose(scores, run(wrapped.onnx, x), rtol=1e-5, atol=1e-6 * terms)


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"one_class": 1}, "leaves a sign"),
        ({"post_transform": "LOGISTIC"}, "post_transform NONE"),
        ({"kernel_type": "COSINE"}, "kernel COSINE"),
        ({"kernel_type": "POLY", "kernel_params": [1.0, 0.0, 2.5]}, "not a whole number"),
        ({"kernel_type": "POLY", "kernel_params": [1.0, 0.0, 1e6]}, "not a whole number"),
    ],
)
def test_what_it_cannot_run_is_refused_by_name(attributes, message):
    model, _, _ = machine("RBF", 3, **attributes)
    with pytest.raises(UnsupportedModelError, match=f'SVMRegressor "machine": .*{message}'):
        load(model, dim=D)


@pytest.mark.parametrize(
    "attributes",
    [
        {"n_supports": 4},
        {"n_supports": -1},
        {"coefficients": [1.0]},
        {"rho": []},
        {"kernel_params": [1.0]},
        {"support_vectors": [float("inf")] * 3 * D},
    ],
)
def test_what_does_not_fit_together_is_an_error(attributes):
    model, _, _ = machine("RBF", 3, **attributes)
    with pytest.raises(ArtifactError, match='SVMRegressor "machine"'):
        load(model, dim=D)


def test_no_kernel_is_generated_for_them():
    model, _, _ = machine("RBF", 3)
    with pytest.raises(UnsupportedModelError, match="fused-cuda backend runs no support vector machines"):
        gpu.cuda_source(model, name="m")
