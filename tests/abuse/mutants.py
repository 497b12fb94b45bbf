"""Damaged ONNX graphs, each by a seed, so that every finding can be repeated."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

if TYPE_CHECKING:
    from collections.abc import Callable

# What the readers know, and some that they do not.
_OPERATORS = (
    *("Abs", "Add", "BatchNormalization", "Cast", "Clip", "Concat", "Constant", "Div", "Dropout", "Exp"),
    *("Expand", "Flatten", "Gather", "Gelu", "Gemm", "Identity", "If", "LeakyRelu", "Log", "Loop", "MatMul"),
    *("Max", "Mod", "Mul", "Neg", "Pow", "ReduceL2", "ReduceMax", "ReduceMean", "ReduceSum", "Relu"),
    *("Reshape", "Shape", "Sigmoid", "Slice", "Softmax", "Split", "Sqrt", "Squeeze", "Sub", "Swish", "Tanh"),
    *("Tile", "TopK", "Transpose", "Unsqueeze", "Where"),
)
_ATTRIBUTES = (
    *("alpha", "approximate", "axes", "axis", "beta", "ends", "epsilon", "k", "keepdims", "largest", "max"),
    *("min", "num_outputs", "perm", "shape", "split", "starts", "to", "training_mode", "transA", "transB"),
    *("value", "value_float", "value_ints"),
)
_WHOLE = (-(2**63), 2**63 - 1, -1, 0, 1, 2, 3, 7, 8, 9, -2, -8, 2**31, 2**20, 100)
_SHAPES = ((), (0,), (1,), (2,), (8,), (1, 8), (8, 8), (0, 8), (8, 0), (1, 1), (2, 3), (8, 1), (1, 1, 8))
_TYPES = (np.float32, np.int64, np.int32, np.float64, np.bool_, np.uint8, np.float16)


def mutant(model: onnx.ModelProto, seed: int) -> bytes:
    """Serialise a copy of `model` with one to five faults, one in seven with broken bytes on top."""
    rng = random.Random(seed)
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 5))):
        rng.choice(_FAULTS)(copy, rng)
    content = copy.SerializeToString()
    return content if rng.randrange(7) else _broken(content, rng)


def _names(graph: onnx.GraphProto) -> list[str]:
    known = [tensor.name for tensor in graph.initializer] + [o for node in graph.node for o in node.output]
    return [*known, "input", "score", "output", "", "nowhere"]


def _tensor(rng: random.Random, name: str) -> onnx.TensorProto:
    shape = rng.choice(_SHAPES)
    values = [rng.choice((0, 1, 2, -1, 3, 8)) for _ in range(int(np.prod(shape)))]
    return numpy_helper.from_array(np.array(values).astype(rng.choice(_TYPES)).reshape(shape), name)


def _attribute(rng: random.Random, name: str) -> onnx.AttributeProto:
    whole = [rng.choice(_WHOLE) for _ in range(rng.randrange(1, 4))]
    value = rng.choice((whole[0], whole, 0.5, float("nan"), [0.5], "tanh", _tensor(rng, "t")))
    return helper.make_attribute(name, value)


def _change_inputs(model: onnx.ModelProto, rng: random.Random) -> None:
    graph = model.graph
    inputs = rng.choice(graph.node).input if graph.node else []
    how = rng.randrange(4)
    if how == 0 and inputs:
        del inputs[rng.randrange(len(inputs))]
    elif how == 1:
        inputs.insert(rng.randrange(len(inputs) + 1), rng.choice(_names(graph)))
    elif how == 2 and inputs:
        inputs[rng.randrange(len(inputs))] = rng.choice(_names(graph))
    else:
        del inputs[:]


def _change_outputs(model: onnx.ModelProto, rng: random.Random) -> None:
    graph = model.graph
    outputs = rng.choice(graph.node).output if graph.node else []
    how = rng.randrange(3)
    if how == 0 and outputs:
        del outputs[rng.randrange(len(outputs))]
    elif how == 1:
        outputs.append(rng.choice([*_names(graph), "extra"]))
    elif outputs:
        outputs[rng.randrange(len(outputs))] = rng.choice(_names(graph))


def _change_nodes(model: onnx.ModelProto, rng: random.Random) -> None:
    nodes = model.graph.node
    how = rng.randrange(4)
    if how == 0 and nodes:
        rng.choice(nodes).op_type = rng.choice(_OPERATORS)
    elif how == 1 and nodes:
        del nodes[rng.randrange(len(nodes))]
    elif how == 2 and nodes:
        node = nodes.pop(rng.randrange(len(nodes)))
        nodes.insert(rng.randrange(len(nodes) + 1), node)
    else:
        names = _names(model.graph)
        inputs = [rng.choice(names) for _ in range(rng.randrange(4))]
        outputs = [rng.choice([*names, "x1", "x2"]) for _ in range(rng.randrange(3))]
        nodes.insert(rng.randrange(len(nodes) + 1), helper.make_node(rng.choice(_OPERATORS), inputs, outputs))


def _change_attributes(model: onnx.ModelProto, rng: random.Random) -> None:
    if not model.graph.node:
        return
    attributes = rng.choice(model.graph.node).attribute
    if attributes and rng.randrange(2):
        index = rng.randrange(len(attributes))
        attributes[index].CopyFrom(_attribute(rng, attributes[index].name))
    else:
        attributes.append(_attribute(rng, rng.choice(_ATTRIBUTES)))


def _change_constants(model: onnx.ModelProto, rng: random.Random) -> None:
    tensors = model.graph.initializer
    how = rng.randrange(5)
    if how == 0 or not tensors:
        tensors.append(_tensor(rng, rng.choice(_names(model.graph))))
        return
    tensor = rng.choice(tensors)
    if how == 1:
        tensor.CopyFrom(_tensor(rng, tensor.name))
    elif how == 2:
        del tensor.dims[:]
        tensor.dims.extend(rng.choice(_WHOLE) for _ in range(rng.randrange(3)))
    elif how == 3:
        tensor.data_type = rng.randrange(20)
    else:
        tensors.remove(tensor)


def _change_signature(model: onnx.ModelProto, rng: random.Random) -> None:
    graph = model.graph
    if rng.randrange(3) == 0:
        name, shape = rng.choice(("output", "score")), rng.choice((["b"], ["b", 8], ["b", 1], None))
        graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
        return
    value = rng.choice([*graph.input, *graph.output])
    shape = value.type.tensor_type.shape
    how = rng.randrange(4)
    if how == 0:
        value.type.tensor_type.elem_type = rng.randrange(17)
    elif how == 1:
        shape.dim.add().dim_value = rng.choice(_WHOLE)
    elif how == 2 and shape.dim:
        shape.dim[rng.randrange(len(shape.dim))].dim_value = rng.choice(_WHOLE)
    else:
        value.name = rng.choice(_names(graph))


def _change_opset(model: onnx.ModelProto, rng: random.Random) -> None:
    model.opset_import[0].version = rng.choice((1, 6, 7, 9, 11, 13, 17, 20, 22, 0, -1, 10**6))


_FAULTS: tuple[Callable[[onnx.ModelProto, random.Random], None], ...] = (
    *(_change_inputs, _change_inputs, _change_outputs, _change_nodes, _change_nodes, _change_attributes),
    *(_change_constants, _change_constants, _change_signature, _change_opset),
)


def _broken(content: bytes, rng: random.Random) -> bytes:
    damaged = bytearray(content)
    for _ in range(rng.randrange(1, 6)):
        at = rng.randrange(len(damaged)) if damaged else 0
        how = rng.randrange(3)
        if how == 0 and damaged:
            damaged[at] = rng.randrange(256)
        elif how == 1:
            del damaged[at : at + rng.randrange(1, 9)]
        else:
            damaged[at:at] = rng.randbytes(rng.randrange(1, 6))
    return bytes(damaged)
