"""Whatever model.onnx holds, loading it ends in a detector or in an error of ours, never in a crash."""

from __future__ import annotations

import os
import signal
import traceback
from pathlib import Path

import numpy as np
import onnx
import onnx.defs
import pytest
from onnx import TensorProto, helper, numpy_helper

from datasentinel import Detector
from datasentinel.artifact import Artifact, Config
from datasentinel.errors import ArtifactError, DataSentinelError, UnsupportedModelError
from tests.abuse.mutants import mutant
from tests.networks import Network

D = 8
MUTANTS = 800
# The table of csrc/onnx/operators.cpp.
KNOWN = (
    *("Abs", "Add", "BatchNormalization", "Cast", "Clip", "Concat", "Div", "Dropout", "Elu", "Erf", "Exp"),
    *("Flatten", "Gather", "Gelu", "Gemm", "HardSigmoid", "HardSwish", "Identity", "LeakyRelu", "Log"),
    *("MatMul", "Max", "Min", "Mish", "Mul", "Neg", "Pow", "Reciprocal", "ReduceL1", "ReduceL2"),
    *("ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum", "ReduceSumSquare", "Relu", "Reshape", "Selu"),
    *("Sigmoid", "Sign", "Slice", "Softplus", "Softsign", "Split", "Sqrt", "Squeeze", "Sub", "Swish"),
    *("Tanh", "TopK", "Transpose", "Unsqueeze"),
)


def _load(content: bytes, backend: str) -> Detector:
    config = Config(input_dim=D, output_dim=D, latent_dim=3, threshold=1.0)
    return Detector(Artifact(Path("mutant"), config, content), backend=backend, plan_budget_s=0.0)


def _load_and_run(content: bytes, backend: str) -> None:
    rows = np.linspace(-1, 1, 3 * D, dtype=np.float32).reshape(3, D)
    try:
        detector = _load(content, backend)
        detector.score(rows)
        detector.reconstruct(rows)
        detector.contributions(rows)
    except DataSentinelError:
        pass


def _models() -> list[onnx.ModelProto]:
    """A plain autoencoder, and one of most operators."""
    plain = onnx.load_from_string(Network.random([D, 6, 3, 6, D]).to_onnx(with_contributions=True))
    whole = {"axes": [1], "k": [3], "columns": [0, 2, -1], "from": [1], "to": [5], "sizes": [3, 5]}
    constants = {name: np.array(values, np.int64) for name, values in whole.items()}
    rng = np.random.default_rng(0)
    constants |= {"w": rng.normal(size=(D, D)).astype(np.float32), "c": np.full(1, 2.0, np.float32)}
    nodes = [
        helper.make_node("MatMul", ["input", "w"], ["a"]),
        helper.make_node("Split", ["a", "sizes"], ["left", "right"], axis=1),
        helper.make_node("Concat", ["right", "left"], ["b"], axis=1),
        helper.make_node("Gather", ["b", "columns"], ["d"], axis=1),
        helper.make_node("Slice", ["b", "from", "to", "axes"], ["e"]),
        helper.make_node("TopK", ["b", "k"], ["f", "f_indices"]),
        helper.make_node("ReduceMax", ["d", "axes"], ["d1"]),
        helper.make_node("ReduceL2", ["e", "axes"], ["e1"]),
        helper.make_node("ReduceSum", ["f", "axes"], ["f1"]),
        helper.make_node("Clip", ["d1", "", "c"], ["d2"]),
        helper.make_node("Pow", ["e1", "c"], ["e2"]),
        helper.make_node("Max", ["d2", "e2"], ["g"]),
        helper.make_node("Mul", ["g", "f1"], ["h"]),
        helper.make_node("Squeeze", ["h", "axes"], ["score"]),
    ]
    graph = helper.make_graph(
        nodes,
        "many",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", D])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["batch"])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    many = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    many.ir_version = 10
    onnx.checker.check_model(many, full_check=True)
    return [plain, many]


@pytest.mark.parametrize("backend", ["fused", "onnxruntime"])
def test_no_mutant_crashes(backend, tmp_path):
    models = _models()
    told = tmp_path / "seed"

    def work() -> None:
        for seed in range(MUTANTS):
            told.write_text(str(seed))
            signal.alarm(30)  # A model that hangs is a finding, too.
            _load_and_run(mutant(models[seed % len(models)], seed), backend)

    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:
            (tmp_path / "error").write_text(traceback.format_exc())
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    error = (tmp_path / "error").read_text() if (tmp_path / "error").exists() else ""
    assert status == 0, f"mutant {told.read_text()} ended the process (status {status}): {error}"


def _one_node(node: onnx.NodeProto) -> bytes:
    """A graph around one node, whose inputs named c... are constants."""
    constants = [
        numpy_helper.from_array(np.ones(1, np.int64), name) for name in node.input if name[:1] == "c"
    ]
    outputs = [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["batch"])]
    inputs = [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", D])]
    axis = helper.make_tensor("axis", TensorProto.INT64, [1], [1])
    last = helper.make_node("ReduceMean", ["input", "axis"], ["score"], keepdims=0)
    graph = helper.make_graph([node, last], "one", inputs, outputs, [*constants, axis])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    model.ir_version = 10
    return model.SerializeToString()


def _node(op: str, inputs: int, outputs: int) -> onnx.NodeProto:
    names = ["input", *(f"c{i}" for i in range(1, inputs))][:inputs]
    return helper.make_node(op, names, [f"y{i}" for i in range(outputs)], name="it")


@pytest.mark.parametrize("op", KNOWN)
def test_the_number_of_inputs_and_outputs_is_that_of_the_standard(op):
    history = [s for s in onnx.defs.get_all_schemas_with_history() if s.domain == "" and s.name == op]
    fewest, most = min(s.min_input for s in history), max(s.max_input for s in history)
    outputs = min(s.min_output for s in history)
    unlimited = most > 1000

    def problem(inputs: int, outputs: int) -> str:
        try:
            _load(_one_node(_node(op, inputs, outputs)), "fused")
        except (ArtifactError, UnsupportedModelError) as error:
            return str(error)
        return ""

    wrong = f'{op} "it" has '
    assert f"{wrong}{fewest - 1} inputs, not " in problem(fewest - 1, outputs)
    assert wrong not in problem(fewest, outputs)
    assert wrong not in problem(most if not unlimited else 9, outputs)
    if not unlimited:
        assert f"{wrong}{most + 1} inputs, not " in problem(most + 1, outputs)
    if max(s.max_output for s in history) < 1000:
        assert " outputs, not " in problem(fewest, max(s.max_output for s in history) + 1)


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (helper.make_node("Relu", ["nowhere"], ["y"]), 'reads "nowhere", which nothing computes'),
        (helper.make_node("Relu", [""], ["y"]), "lacks input 0"),
        (helper.make_node("Relu", ["input"], ["input"]), 'computes "input", which is there already'),
        (helper.make_node("Concat", ["input"], ["y"], axis=1.5), 'attribute "axis" of the wrong kind'),
        (helper.make_node("Constant", [], ["y"], value_float=3), "of the wrong kind"),
        (helper.make_node("Constant", [], ["y"]), "needs exactly one value"),
    ],
)
def test_a_graph_that_is_none_is_refused_by_name(node, message):
    with pytest.raises(ArtifactError, match=message):
        _load(_one_node(node), "auto")


def test_columns_that_a_small_file_multiplies_are_not_allocated():
    nodes, name = [], "input"
    for i in range(40):  # 8 * 2^40 columns
        nodes.append(helper.make_node("Concat", [name, name], [f"x{i}"], axis=1))
        name = f"x{i}"
    nodes.append(helper.make_node("ReduceMean", [name, "axis"], ["score"], keepdims=0))
    graph = helper.make_graph(
        nodes,
        "wide",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", D])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["batch"])],
        [helper.make_tensor("axis", TensorProto.INT64, [1], [1])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    with pytest.raises(UnsupportedModelError, match="columns"):
        _load(model.SerializeToString(), "fused")
