"""Graphs of decision trees, and what the ONNX specification says of them in float64."""

from __future__ import annotations

import numpy as np
import onnxruntime
from onnx import TensorProto, helper

D = 7
MODES = ("BRANCH_LEQ", "BRANCH_LT", "BRANCH_GT", "BRANCH_GTE")
COMPARE = {
    "BRANCH_LEQ": np.less_equal,
    "BRANCH_LT": np.less,
    "BRANCH_GT": np.greater,
    "BRANCH_GTE": np.greater_equal,
}


class Trees:
    """Trees under construction, and what the specification says of them."""

    def __init__(self, seed, *, targets=1, modes=MODES):
        self.rng = np.random.default_rng(seed)
        self.targets = targets
        self.modes = modes
        self.nodes = []  # (tree, node, feature, mode, threshold, true, false, missing)
        self.weights = []  # (tree, node, target, weight)
        self.count = 0

    def grow(self, splits, *, chain=False):
        """Add a tree with so many splits at random places, or all of them in a row."""
        ids = self.rng.permutation(2 * splits + 1).tolist()
        leaves = [ids.pop()]
        nodes = []
        for _ in range(splits):
            at = leaves.pop(-1 if chain else self.rng.integers(len(leaves)))
            below = [ids.pop(), ids.pop()]
            leaves += below
            # Few thresholds, which rows are put on exactly.
            threshold = float(self.rng.integers(-4, 5) / 4)
            split = (int(self.rng.integers(D)), self.modes[self.rng.integers(len(self.modes))], threshold)
            nodes.append((self.count, at, *split, *below, int(self.rng.integers(2))))
        for leaf in leaves:
            nodes.append((self.count, leaf, 0, "LEAF", 0.0, 0, 0, 0))
            for target in range(self.targets):
                if self.rng.random() < 0.9:
                    self.weights.append((self.count, leaf, target, float(np.float32(self.rng.normal()))))
        # In any order but for the root: ONNX Runtime takes the first one for it.
        self.nodes += [nodes[0], *(nodes[i] for i in 1 + self.rng.permutation(len(nodes) - 1))]
        self.count += 1
        return self

    def attributes(self, prefix="target"):
        names = ("treeids", "nodeids", "featureids", "modes", "values", "truenodeids", "falsenodeids",
                 "missing_value_tracks_true")  # fmt: skip
        found = {f"nodes_{n}": list(c) for n, c in zip(names, zip(*self.nodes, strict=True), strict=True)}
        columns = list(zip(*self.weights, strict=True)) or [()] * 4
        for name, column in zip(("treeids", "nodeids", "ids", "weights"), columns, strict=True):
            found[f"{prefix}_{name}"] = list(column)
        return found

    def sums(self, x):
        """What each row's leaves add up to, [rows, targets], in float64."""
        by_id = {(n[0], n[1]): n for n in self.nodes}
        children = {(n[0], c) for n in self.nodes if n[3] != "LEAF" for c in n[5:7]}
        roots = [key for key in by_id if key not in children]
        weights = {}
        for tree, node, target, weight in self.weights:
            weights.setdefault((tree, node), []).append((target, float(weight)))
        total = np.zeros((len(x), self.targets))
        for row, answer in zip(x, total, strict=True):
            for key in roots:
                node = by_id[key]
                while node[3] != "LEAF":
                    tree, _, feature, mode, threshold, true, false, missing = node
                    value = row[feature]
                    goes = bool(missing) if np.isnan(value) else COMPARE[mode](value, threshold)
                    node = by_id[tree, true if goes else false]
                for target, weight in weights.get((node[0], node[1]), []):
                    answer[target] += weight
        return total


def model_of(*nodes, output="score", columns=1, dim=D):
    """The graph of these nodes, the last of which computes `output`."""
    shape = ["batch", columns] if columns > 1 or output == "output" else ["batch", 1]
    graph = helper.make_graph(
        list(nodes),
        "trees",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", dim])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, shape)],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", 3)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()


def ensemble(trees, *, source="input", output="score", name="forest", **attributes):
    return helper.make_node(
        "TreeEnsembleRegressor", [source], [output], name=name, domain="ai.onnx.ml",
        n_targets=trees.targets, **{**trees.attributes(), **attributes},
    )  # fmt: skip


def classifier(trees, **attributes):
    return helper.make_node(
        "TreeEnsembleClassifier", ["input"], ["label", "output"], name="forest", domain="ai.onnx.ml",
        **{**trees.attributes("class"), **attributes},
    )  # fmt: skip


def stump(low, high):
    """One tree: `low` where the first column is at most 0, `high` elsewhere."""
    trees = Trees(0)
    trees.nodes = [
        (0, 0, 0, "BRANCH_LEQ", 0.0, 1, 2, 0),
        (0, 1, 0, "LEAF", 0.0, 0, 0, 0),
        (0, 2, 0, "LEAF", 0.0, 0, 0, 0),
    ]
    trees.weights = [(0, 1, 0, low), (0, 2, 0, high)]
    trees.count = 1
    return trees


def rows(count, seed=0):
    """Rows of which every other value is one of the trees' thresholds."""
    rng = np.random.default_rng(seed)
    on_thresholds = (rng.integers(-5, 6, size=(count, D)) / 4).astype(np.float32)
    return np.where(
        rng.random((count, D)) < 0.5, on_thresholds, rng.normal(size=(count, D)).astype(np.float32)
    )


def run(onnx_bytes, x, output="score"):
    session = onnxruntime.InferenceSession(onnx_bytes, providers=["CPUExecutionProvider"])
    return session.run([output], {"input": x})[0]
