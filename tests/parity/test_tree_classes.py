"""Decision trees that score classes on the fused backend, against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from datasentinel.errors import UnsupportedModelError
from tests.parity.fused_scorer import load
from tests.parity.tree_models import D, Trees, classifier, model_of, rows, run, stump


@pytest.mark.parametrize("transform", ["NONE", "LOGISTIC"])
@pytest.mark.parametrize("sign", ["votes", "signed"])
@pytest.mark.parametrize("classes", [2, D])
def test_scores_of_classes(isa, classes, sign, transform):
    """Of two classes, as converters write them, those of the first alone."""
    trees = Trees(6, targets=1 if classes == 2 else classes)
    for _ in range(9):
        trees.grow(12)
    if sign == "votes":
        trees.weights = [(*w[:3], abs(w[3]) / 9) for w in trees.weights]
    scores = classifier(trees, classlabels_int64s=list(range(classes)), post_transform=transform)
    if classes == 2:  # as many columns as the input
        scores.output[1] = "two"
        repeat = [
            helper.make_node("Concat", ["two"] * 3 + ["one"], ["output"], axis=1),
            helper.make_node("Constant", [], ["first"], value_ints=[1]),
        ]
        model = model_of(
            scores, repeat[1], helper.make_node("Gather", ["two", "first"], ["one"], axis=1), repeat[0],
            output="output", columns=D,
        )  # fmt: skip
    else:
        model = model_of(scores, output="output", columns=D)
    x = rows(60)
    np.testing.assert_allclose(
        load(model, dim=D).reconstruct(x), run(model, x, "output"), rtol=2e-5, atol=2e-6
    )


@pytest.mark.parametrize("transform", ["NONE", "LOGISTIC"])
@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize(("classes", "bases"), [(2, 1), (3, 3)])
def test_base_values_of_classes(isa, classes, bases, sign, transform):
    trees = Trees(7, targets=1 if classes == 2 else classes).grow(12).grow(9)
    trees.weights = [(*w[:3], sign * abs(w[3])) for w in trees.weights]
    x = rows(40)[:, :classes].copy()
    trees.nodes = [(*n[:2], n[2] % classes, *n[3:]) for n in trees.nodes]
    node = classifier(
        trees,
        classlabels_int64s=list(range(classes)),
        base_values=[0.125, -0.5, 0.75][:bases],
        post_transform=transform,
    )
    model = model_of(node, output="output", columns=classes, dim=classes)
    np.testing.assert_allclose(
        load(model, dim=classes).reconstruct(x), run(model, x, "output"), rtol=2e-5, atol=2e-6
    )


@pytest.mark.parametrize(
    ("labels", "classes", "attributes", "message"),
    [
        (2, (0, 1), {"base_values": [0.1, 0.1]}, "2 base values for two classes"),
        (2, (0, 1), {"base_values": [0.0, 0.0]}, "2 base values for two classes"),
        (2, (0,), {"base_values": [0.1, 0.1]}, "2 base values for two classes"),
        (2, (0,), {"base_values": [0.1, 0.3], "post_transform": "LOGISTIC"}, "2 base values for two classes"),
        (2, (0, 1), {"base_values": [0.1]}, "one base value for scores of two classes"),
        (3, (0, 1, 2), {"base_values": [0.1]}, "does not have one base value per output"),
        (1, (0,), {"post_transform": "LOGISTIC"}, "LOGISTIC to the score of one class"),
    ],
)
def test_classifiers_whose_scores_have_no_one_meaning_are_refused(labels, classes, attributes, message):
    trees = stump(0.25, 0.5)
    trees.weights = [(*w[:2], c, w[3]) for w in trees.weights for c in classes]
    node = classifier(trees, classlabels_int64s=list(range(labels)), **attributes)
    with pytest.raises(UnsupportedModelError, match=f'"forest": .*{message}'):
        load(model_of(node, output="output", columns=labels, dim=labels), dim=labels)


def test_weights_of_a_class_that_rows_may_lack():
    """ONNX Runtime does something else for such rows: it leaves the base value out, or makes a score of the other."""
    some = [(0, 1, 0, 0.25), (0, 1, 1, 0.5), (0, 2, 1, 0.75)]
    x = np.array([[-1, 0], [1, 0]], np.float32)

    def model(weights, **attributes):
        trees = stump(0.25, 0.5)
        trees.weights = weights
        node = classifier(trees, classlabels_int64s=[0, 1], **attributes)
        return model_of(node, output="output", columns=2, dim=2)

    for weights in (some, some[:1]):
        reconstructed = load(model(weights), dim=2).reconstruct(x)
        np.testing.assert_allclose(reconstructed, run(model(weights), x, "output"))
    with pytest.raises(UnsupportedModelError, match="may come to no weight of class 1"):
        load(model([some[0], some[2]]), dim=2)
    with pytest.raises(UnsupportedModelError, match="may come to no weight of class 0"):
        load(model(some[:1], base_values=[0.1]), dim=2)
