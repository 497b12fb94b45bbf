"""Decision trees that the fused backend cannot run, or that are none: refused by name."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper

from datasentinel.errors import ArtifactError, UnsupportedModelError
from tests.parity.fused_scorer import load
from tests.parity.tree_models import D, Trees, classifier, ensemble, model_of


def test_small_files_that_ask_for_much_memory_are_refused():
    trees = Trees(2).grow(1023)
    leaves = [w[1] for w in trees.weights]
    trees.targets = 4096
    trees.weights = [(0, leaves[t % len(leaves)], t, 1.0) for t in range(trees.targets)]
    with pytest.raises(UnsupportedModelError, match="4096 outputs would take far more memory"):
        load(model_of(ensemble(trees, output="output"), output="output", columns=4096, dim=4096), dim=4096)
    many = [helper.make_node("Neg", ["sum"], [f"n{i}"]) for i in range(300)]
    total = helper.make_node("Sum", [node.output[0] for node in many], ["score"])
    with pytest.raises(UnsupportedModelError, match="what it computes of trees would take far more memory"):
        load(model_of(ensemble(Trees(2).grow(4095), output="sum"), *many, total), dim=D)


def changed(trees, name, index, value):
    attributes = trees.attributes()
    attributes[name][index] = value
    return model_of(ensemble(trees, **{name: attributes[name]}))


def test_what_cannot_be_run_is_named():
    trees = Trees(1, modes=("BRANCH_LEQ",)).grow(3)
    branch = next(i for i, node in enumerate(trees.nodes) if node[3] != "LEAF")
    with pytest.raises(UnsupportedModelError, match=r'TreeEnsembleRegressor "forest": .*mode "BRANCH_EQ"'):
        load(changed(trees, "nodes_modes", branch, "BRANCH_EQ"), dim=D)
    for limit in (np.inf, -np.inf):
        with pytest.raises(UnsupportedModelError, match=r'"forest": .*infinite threshold'):
            load(changed(trees, "nodes_values", branch, float(limit)), dim=D)
    for name, value in {"aggregate_function": "MIN", "post_transform": "PROBIT"}.items():
        with pytest.raises(UnsupportedModelError, match=f'"forest": .*{value}'):
            load(model_of(ensemble(trees, **{name: value})), dim=D)
    attributes = {"nodes_featureids": [5000] * len(trees.nodes)}
    with pytest.raises(UnsupportedModelError, match="too many columns"):
        load(model_of(ensemble(trees, **attributes), dim=6000), dim=6000)
    labels = [
        classifier(trees, classlabels_int64s=[0, 1]),
        helper.make_node("Cast", ["label"], ["score"], to=TensorProto.FLOAT),
    ]
    with pytest.raises(UnsupportedModelError, match="its labels are read"):
        load(model_of(*labels), dim=D)
    whole = [
        ensemble(trees, output="sum"),
        helper.make_node("Cast", ["sum"], ["whole"], to=TensorProto.INT64),
        helper.make_node("Abs", ["whole"], ["magnitude"]),
        helper.make_node("BitwiseNot", ["magnitude"], ["not"]),
        helper.make_node("Cast", ["not"], ["score"], to=TensorProto.FLOAT),
    ]
    with pytest.raises(UnsupportedModelError, match=r"BitwiseNot .*does not know this operator"):
        load(model_of(*whole), dim=D)


def test_what_is_no_tree_is_refused():
    trees = Trees(1, modes=("BRANCH_LEQ",)).grow(3).grow(2)
    attributes = trees.attributes()
    root = 0
    broken = {
        "two ways to": ("nodes_truenodeids", root, attributes["nodes_falsenodeids"][root]),
        "cannot be reached from a root": ("nodes_truenodeids", root, attributes["nodes_nodeids"][root]),
        "lacks node": ("nodes_truenodeids", root, 10**6),
        "asks for column 7 of 7": ("nodes_featureids", root, 7),
        "no threshold": ("nodes_values", root, float("nan")),
        "twice": ("nodes_nodeids", root, attributes["nodes_truenodeids"][root]),
        "not finite": ("target_weights", 0, float("inf")),
        "adds to output 1 of 1": ("target_ids", 0, 1),
    }
    for message, (name, index, value) in broken.items():
        with pytest.raises(ArtifactError, match=message):
            load(changed(trees, name, index, value), dim=D)
    with pytest.raises(ArtifactError, match='"nodes_values", not'):
        load(model_of(ensemble(trees, nodes_values=[1.0])), dim=D)
    with pytest.raises(ArtifactError, match="wrong kind"):
        load(model_of(ensemble(trees, nodes_values=[1] * len(trees.nodes))), dim=D)
