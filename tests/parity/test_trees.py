"""Decision trees on the fused backend, against the ONNX specification in float64 and against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from tests.parity.fused_scorer import load
from tests.parity.test_batch_invariance import assert_same_in_every_batch
from tests.parity.tree_models import MODES, D, Trees, ensemble, model_of, rows, run


def forest_of(kind):
    trees = Trees(len(kind))
    if kind == "one leaf":
        return trees.grow(0)
    if kind == "a chain":
        return trees.grow(40, chain=True)
    sizes = {
        "one tree": [9],
        "stumps": [1] * 33,
        "forest": [30] * 50,
        "uneven": [0, 1, 2, 60, 3, 150, 7, 1] * 3,
    }
    for size in sizes[kind]:
        trees.grow(size)
    return trees.grow(25, chain=True) if kind == "uneven" else trees


KINDS = ("one leaf", "one tree", "a chain", "stumps", "forest", "uneven")


@pytest.mark.parametrize("kind", KINDS)
def test_trees_are_what_the_specification_says(isa, kind):
    trees = forest_of(kind)
    model = model_of(ensemble(trees))
    x = rows(100)
    expected = trees.sums(x)[:, 0]
    scores = load(model, dim=D).score(x)
    np.testing.assert_allclose(scores, expected, rtol=1e-6, atol=1e-5)
    np.testing.assert_allclose(scores, run(model, x)[:, 0], rtol=1e-6, atol=1e-5)
    assert len(np.unique(scores)) > (0 if kind == "one leaf" else 1)


@pytest.mark.parametrize("kind", ["a chain", "uneven"])
def test_the_same_bits_in_every_batch(isa, kind):
    assert_same_in_every_batch(model_of(ensemble(forest_of(kind))), rows(100), (1, 2, 3, 7, 16, 17, 33, 64))


@pytest.mark.parametrize("mode", MODES)
def test_what_is_not_a_number_goes_where_the_node_says(isa, mode):
    """Inputs are finite, but what a graph makes of them need not be."""
    trees = Trees(3, modes=(mode,))
    for _ in range(20):
        trees.grow(12)
    model = model_of(helper.make_node("Log", ["input"], ["logs"]), ensemble(trees, source="logs"))
    x = rows(80)
    with np.errstate(invalid="ignore", divide="ignore"):
        logs = np.log(x.astype(np.float64))
    assert np.isnan(logs).any()
    np.testing.assert_allclose(load(model, dim=D).score(x), trees.sums(logs)[:, 0], rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("function", ["SUM", "AVERAGE"])
@pytest.mark.parametrize("transform", ["NONE", "LOGISTIC"])
def test_several_targets(isa, function, transform):
    trees = Trees(5, targets=D)
    for _ in range(12):
        trees.grow(15)
    bases = np.linspace(-1, 1, D).tolist()
    node = ensemble(
        trees, output="output", base_values=bases, aggregate_function=function, post_transform=transform
    )
    model = model_of(node, output="output", columns=D)
    x = rows(60)
    expected = trees.sums(x) / (12 if function == "AVERAGE" else 1) + np.float32(bases)
    if transform == "LOGISTIC":
        expected = 1 / (1 + np.exp(-expected))
    reconstructed = load(model, dim=D).reconstruct(x)
    np.testing.assert_allclose(reconstructed, expected, rtol=2e-6, atol=2e-6)
    np.testing.assert_allclose(reconstructed, run(model, x, "output"), rtol=2e-5, atol=2e-6)


def test_a_sum_of_trees_with_something_else(isa):
    trees = Trees(8)
    for _ in range(10):
        trees.grow(10)
    nodes = [
        helper.make_node("Constant", [], ["axis"], value_ints=[1]),
        ensemble(trees, output="sum"),
        helper.make_node("ReduceSum", ["input", "axis"], ["columns"]),
        helper.make_node("Sum", ["sum", "columns", "sum"], ["score"]),
    ]
    x = rows(50)
    expected = 2 * trees.sums(x)[:, 0] + x.astype(np.float64).sum(axis=1)
    np.testing.assert_allclose(load(model_of(*nodes), dim=D).score(x), expected, rtol=1e-5, atol=1e-5)


def test_targets_of_few_trees_each():
    """Boosted trees of several classes: each tree has weights of one; the last target has none."""
    trees = Trees(4, targets=1)
    for _ in range(3 * (D - 1)):
        trees.grow(9)
    trees.weights = [(*w[:2], w[0] % (D - 1), w[3]) for w in trees.weights]
    trees.targets = D
    model = model_of(ensemble(trees, output="output"), output="output", columns=D)
    x = rows(50)
    reconstructed = load(model, dim=D).reconstruct(x)
    np.testing.assert_allclose(reconstructed, trees.sums(x), rtol=2e-6, atol=2e-6)
    assert np.ptp(reconstructed[:, :-1], axis=0).all()
    np.testing.assert_array_equal(reconstructed[:, -1], 0)
