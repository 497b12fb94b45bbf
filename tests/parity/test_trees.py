"""Decision trees on the fused backend, against the ONNX specification in float64 and against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper

from datasentinel.errors import ArtifactError, UnsupportedModelError
from tests.parity.fused_scorer import load
from tests.parity.test_batch_invariance import assert_same_in_every_batch

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


def test_functions_of_a_leaf_are_computed_beforehand(isa):
    """What skl2onnx writes of each tree of an IsolationForest is looked up, compared, cast and shaped."""
    constants = {
        "one": 1.0, "two": 2.0, "none": 0.0, "third": 1 / 3,
    }  # fmt: skip
    nodes = [helper.make_node("Constant", [], [name], value_float=value) for name, value in constants.items()]
    nodes.append(helper.make_node("Constant", [], ["column"], value_ints=[-1, 1]))
    nodes.append(helper.make_node("Constant", [], ["whole_two"], value_int=2))
    expected = np.zeros(100)
    x = rows(100)
    for t in range(5):
        trees = Trees(t).grow(20)
        nodes.append(ensemble(trees, output=f"{t}raw", name=f"tree{t}", base_values=[4.5]))
        raw = trees.sums(x)[:, 0] + 4.5
        steps = [
            ("Cast", ["raw"], "number", {"to": TensorProto.INT64}),
            ("ai.onnx.ml:LabelEncoder", ["number"], "label",
             {"keys_int64s": [3, 4, 5], "values_floats": [0.25, -2.0, 8.5], "default_float": 1.5}),
            ("Reshape", ["label", "=column"], "shaped", {}),
            ("Div", ["number", "=whole_two"], "half", {}),
            ("Cast", ["half"], "half_real", {"to": TensorProto.FLOAT}),
            ("Greater", ["label", "=none"], "positive", {}),
            ("Where", ["positive", "shaped", "=third"], "chosen", {}),
            ("Max", ["chosen", "=one", "half_real"], "greatest", {}),
            ("Log", ["greatest"], "logarithm", {}),
            ("Pow", ["=two", "logarithm"], "power", {}),
            ("Sum", ["power", "shaped", "half_real"], "sum", {}),
        ]  # fmt: skip
        for op, sources, target, attributes in steps:
            domain, _, name = op.rpartition(":")
            inputs = [s[1:] if s.startswith("=") else f"{t}{s}" for s in sources]
            nodes.append(helper.make_node(name, inputs, [f"{t}{target}"], domain=domain, **attributes))
        number = np.trunc(raw)
        label = np.select([number == 3, number == 4, number == 5], [0.25, -2.0, 8.5], 1.5)
        chosen = np.where(label > 0, label, np.float32(1 / 3))
        expected += 2 ** np.log(np.maximum(np.maximum(chosen, 1), number // 2)) + label + number // 2
    nodes.append(helper.make_node("Sum", [f"{t}sum" for t in range(5)], ["total"]))
    nodes.append(helper.make_node("Mul", ["total", "third"], ["scaled"]))
    nodes.append(helper.make_node("Neg", ["scaled"], ["negated"]))
    nodes.append(helper.make_node("Pow", ["two", "negated"], ["score"]))
    model = model_of(*nodes)
    expected = 2 ** (-expected * np.float32(1 / 3))
    scorer = load(model, dim=D)
    np.testing.assert_allclose(scorer.score(x), expected, rtol=5e-6)
    np.testing.assert_allclose(scorer.score(x), run(model, x)[:, 0], rtol=2e-5)


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


def classifier(trees, **attributes):
    return helper.make_node(
        "TreeEnsembleClassifier", ["input"], ["label", "output"], name="forest", domain="ai.onnx.ml",
        **{**trees.attributes("class"), **attributes},
    )  # fmt: skip


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


def folded(steps, *, leaves=(0.1, 0.7), **attributes):
    """The graph that computes `steps` of a stump's `leaves`: (operator, inputs, attributes), inputs being the
    step before ("_") or numbers, integers where they are ints; its result is cast to float32."""
    nodes = [ensemble(stump(*leaves), output="0", **attributes)]
    for i, (op, sources, given) in enumerate(steps):
        names = []
        for source in sources:
            names.append(str(i) if source == "_" else f"c{len(nodes)}")
            if isinstance(source, np.generic):
                tensor = helper.make_tensor("", helper.np_dtype_to_tensor_dtype(source.dtype), [], [source])
                nodes.append(helper.make_node("Constant", [], [names[-1]], value=tensor))
        domain, _, name = op.rpartition(":")
        nodes.append(helper.make_node(name, names, [str(i + 1)], name=name, domain=domain, **given))
    nodes.append(helper.make_node("Cast", [str(len(steps))], ["score"], to=TensorProto.FLOAT))
    return model_of(*nodes)


ADDED = ("Add", ["_", np.float32(0.2)], {})
SCALED = ("Mul", ["_", np.float32(10)], {})
TO_INT32 = ("Cast", ["_"], {"to": TensorProto.INT32})


@pytest.mark.parametrize(
    ("steps", "attributes"),
    [
        ([ADDED, ("GreaterOrEqual", ["_", np.float32(0.3)], {})], {}),
        ([ADDED, ("Less", ["_", np.float32(0.3)], {})], {}),
        ([ADDED, ("Equal", ["_", np.float32(0.3)], {})], {}),
        ([("GreaterOrEqual", ["_", np.float32(0.3)], {})], {"base_values": [0.2]}),
        ([SCALED, ("Floor", ["_"], {})], {}),
        ([SCALED, TO_INT32], {}),
        (
            [
                ADDED,
                (
                    "ai.onnx.ml:LabelEncoder",
                    ["_"],
                    {"keys_floats": [0.3], "values_floats": [5.0], "default_float": 2.0},
                ),
            ],
            {},
        ),
        # Of a leaf that is not a number, and of -0.
        (
            [
                ("Sub", ["_", np.float32(0.5)], {}),
                ("Log", ["_"], {}),
                (
                    "ai.onnx.ml:LabelEncoder",
                    ["_"],
                    {"keys_floats": [0.3], "values_floats": [5.0], "default_float": 2.0},
                ),
            ],
            {},
        ),
        (
            [
                ("Relu", ["_"], {}),
                ("Mul", ["_", np.float32(-0.0)], {}),
                ("Reciprocal", ["_"], {}),
                ("Less", ["_", np.float32(0)], {}),
            ],
            {},
        ),
    ],
)
def test_functions_of_a_leaf_round_as_the_graph_does(steps, attributes):
    """In float64, 0.1 + 0.2 is no longer at least 0.3, each a float32, and 10 times 0.7 is less than 7."""
    model = folded(steps, **attributes)
    x = np.zeros((2, D), np.float32)
    x[1] = 1
    np.testing.assert_array_equal(load(model, dim=D).score(x), run(model, x)[:, 0])


def test_functions_of_a_leaf_that_have_no_exact_result_are_refused():
    beyond = [TO_INT32, ("Mul", ["_", np.int32(1 << 16)], {})]
    with pytest.raises(UnsupportedModelError, match='"Mul": its integers leave the range of int32'):
        load(folded(beyond, leaves=(2.0, 40000.0)), dim=D)
    with pytest.raises(UnsupportedModelError, match='"Cast": its integers leave the range of int32'):
        load(folded([TO_INT32], leaves=(1.0, 3e9)), dim=D)
    by_zero = [TO_INT32, ("Div", ["_", np.int32(0)], {})]
    with pytest.raises(UnsupportedModelError, match='"Div": its integers leave the range of int32'):
        load(folded(by_zero, leaves=(0.0, 1.0)), dim=D)
    keys = {"keys_floats": [float("nan"), 1.0], "values_floats": [5.0, 6.0]}
    with pytest.raises(UnsupportedModelError, match="NaN is among its keys"):
        load(folded([("ai.onnx.ml:LabelEncoder", ["_"], keys)]), dim=D)


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
