"""Wrapping of foreign ONNX graphs, so that they obey the artifact's contract (docs/artifact.md).

A graph that scores or reconstructs keeps its nodes, weights and operator versions; nodes are added around
them that convert and rename its input and one of its outputs. Needs the `onnx` package.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

from datasentinel.errors import MissingDependencyError, SettingsError, UnsupportedModelError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from onnx import FunctionProto, GraphProto, ModelProto, NodeProto, ValueInfoProto

    from datasentinel.types import Float32Array

Kind: TypeAlias = Literal["score", "reconstruction"]
KINDS: tuple[Kind, ...] = get_args(Kind)
HigherIs: TypeAlias = Literal["normal", "anomalous"]
HIGHER_IS: tuple[HigherIs, ...] = get_args(HigherIs)

_FLOATS = ("FLOAT", "DOUBLE", "FLOAT16")
_NUMBERS = (*_FLOATS, "INT64", "INT32")
# Of the foreign names, so that none of them meets the contract's.
_PREFIX = "foreign/"
# Scores would differ from call to call.
_RANDOM = frozenset(
    ("Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike")
)


@dataclass(frozen=True)
class Wrapped:
    """A graph that obeys the contract, and what was made of the foreign one.

    Attributes
    ----------
    onnx : bytes
        The ONNX file.
    kind : str
        "score" or "reconstruction".
    output : str
        The foreign output that was taken.
    input_dim : int
        Width of a row, D.
    producer : str
        What the foreign file says of its origin.
    """

    onnx: bytes
    kind: Kind
    output: str
    input_dim: int
    producer: str


def wrap(
    path: Path,
    *,
    sample: Float32Array,
    output: str | None = None,
    kind: Kind | None = None,
    higher_is: HigherIs | None = None,
) -> Wrapped:
    """Wrap the graph of an ONNX file.

    Parameters
    ----------
    path : Path
        The foreign file. Weights beside it are taken in.
    sample : float32 array, shape [2, D]
        Rows of the data it is for; outputs whose shape the file does not state are computed for them.
    output : str, optional
        The output to take; needed where several could be meant, and for whole numbers such as labels.
    kind : str, optional
        What that output is; by default inferred from its shape: D columns reconstruct, one scores.
    higher_is : str, optional
        What a higher score means; needed for scores, since scikit-learn and others differ.

    Raises
    ------
    UnsupportedModelError
        The file is no ONNX graph, or has no input or output that fits.
    SettingsError
        The direction of the scores has to be given.
    MissingDependencyError
        onnx is not installed.
    """
    try:
        import onnx
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            'importing a model needs onnx: pip install "datasentinel[train]"'
        ) from error
    width = sample.shape[1]
    try:
        model = onnx.shape_inference.infer_shapes(onnx.load(path))
        if not all(map(_has_shape, model.graph.output)):
            _declare_shapes(model, sample)
        onnx.checker.check_model(model)
    except OSError as error:
        raise UnsupportedModelError(f"{path}: cannot be read: {error.strerror or error}") from error
    except MissingDependencyError:
        raise
    except Exception as error:  # protobuf, the checker and the runtime have exceptions of their own
        raise UnsupportedModelError(f"{path}: not a valid ONNX file: {error}") from error
    _require_known(model, path)
    source = _input(model.graph, path, width)
    sink, found = _output(model.graph, path, width, output, kind)
    if found == "score" and higher_is is None:
        raise SettingsError(
            f"{path}: output '{sink.name}' scores, but is a higher score more normal (scikit-learn's "
            "score_samples and decision_function) or more anomalous (PyOD)? Say which with --higher-is"
        )
    if found == "reconstruction" and higher_is == "normal":
        raise SettingsError("a reconstruction has no direction; higher_is is for scores")
    producer = f"{model.producer_name} {model.producer_version}".strip()
    taken = sink.name
    _add_prefix(model.graph)
    _rewire(model, source, sink, found, width, negate=higher_is == "normal")
    onnx.checker.check_model(model)
    return Wrapped(model.SerializeToString(), found, taken, width, producer)


def _require_known(model: ModelProto, path: Path) -> None:
    """Refuse what scores by chance, and operators newer than the installed onnx describes."""
    from onnx.defs import onnx_opset_version

    for opset in model.opset_import:
        if opset.domain in ("", "ai.onnx") and opset.version > (newest := onnx_opset_version()):
            raise UnsupportedModelError(f"{path}: opset {opset.version}; the installed onnx knows {newest}")
    if model.graph.sparse_initializer:
        raise UnsupportedModelError(f"{path}: holds sparse tensors; export the model with dense ones")
    parts: list[GraphProto | FunctionProto] = [model.graph, *model.functions]
    for node in (node for part in parts for node in _all_nodes(part)):
        if node.op_type in _RANDOM:
            raise UnsupportedModelError(
                f"{path}: operator {node.op_type} (node '{node.name}') is random: scores would differ from "
                "call to call"
            )


def _all_nodes(graph: GraphProto | FunctionProto) -> Iterator[NodeProto]:
    for node in graph.node:
        yield node
        for inner in _inner_graphs(node):
            yield from _all_nodes(inner)


def _inner_graphs(node: NodeProto) -> list[GraphProto]:
    """Return the branches of an `If`, the body of a `Loop`, and the like."""
    return [
        graph
        for attribute in node.attribute
        for graph in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else []))
    ]


def _add_prefix(graph: GraphProto) -> None:
    """Rename all nodes and tensors; those of inner graphs, too, which read the outer ones by name."""
    for node in graph.node:
        node.name = node.name and _PREFIX + node.name
        for names in (node.input, node.output):
            names[:] = [name and _PREFIX + name for name in names]  # An optional one may be empty.
        for inner in _inner_graphs(node):
            _add_prefix(inner)
    for value in (*graph.input, *graph.output, *graph.value_info):
        value.name = _PREFIX + value.name
    for tensor in graph.initializer:
        tensor.name = _PREFIX + tensor.name


def _declare_shapes(model: ModelProto, sample: Float32Array) -> None:
    """Run the graph on two rows and declare the shapes of its outputs as they come out.

    Converters leave them out where an operator has no rule of inference; ONNX Runtime does not need them.
    """
    import numpy as np
    from onnx import helper

    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            "the file does not state the shapes of its outputs; finding them needs onnxruntime: pip install "
            '"datasentinel[cpu]"'
        ) from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    (source,) = session.get_inputs()
    kind = np.float64 if source.type == "tensor(double)" else np.float32
    found = session.run(None, {source.name: sample.astype(kind)})
    for output, value in zip(model.graph.output, found, strict=True):
        if not _has_shape(output) and output.type.HasField("tensor_type"):
            dims = ["batch" if i == 0 and n == len(sample) else n for i, n in enumerate(np.shape(value))]
            declared = helper.make_tensor_type_proto(output.type.tensor_type.elem_type, dims)
            output.type.CopyFrom(declared)


def _has_shape(value: ValueInfoProto) -> bool:
    return value.type.HasField("tensor_type") and value.type.tensor_type.HasField("shape")


def _input(graph: GraphProto, path: Path, width: int) -> ValueInfoProto:
    constants = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in constants]
    if len(inputs) != 1:
        names = ", ".join(f"'{value.name}'" for value in inputs)
        raise UnsupportedModelError(
            f"{path}: expected one input of shape [batch, {width}], got {len(inputs)} ({names}); export the "
            "model with all columns in one tensor"
        )
    shape = _shape(inputs[0])
    if _type_name(inputs[0]) not in _FLOATS:
        raise UnsupportedModelError(f"{path}: input '{inputs[0].name}' takes {_type_name(inputs[0])}")
    if _has_shape(inputs[0]) and (len(shape) != 2 or shape[1] not in (None, width)):
        raise UnsupportedModelError(
            f"{path}: input '{inputs[0].name}' has shape {_text(shape)}, but the data has {width} columns"
        )
    return inputs[0]


def _output(
    graph: GraphProto, path: Path, width: int, wanted: str | None, kind: Kind | None
) -> tuple[ValueInfoProto, Kind]:
    outputs = list(graph.output)
    names = ", ".join(f"'{value.name}' {_type_name(value)} {_text(_shape(value))}" for value in outputs)
    if wanted is not None:
        outputs = [value for value in outputs if value.name == wanted]
        if not outputs:
            raise UnsupportedModelError(f"{path}: no output '{wanted}'; the outputs are {names}")
    candidates = [
        (value, found)
        for value in outputs
        if _type_name(value) in (_NUMBERS if wanted else _FLOATS)
        for found in _kinds(_shape(value), width)
        if kind in (None, found)
    ]
    if not candidates:
        raise UnsupportedModelError(
            f"{path}: no output is a score (floating point, [batch] or [batch, 1]) or a reconstruction "
            f"([batch, {width}]) as asked for; the outputs are {names}"
        )
    if len(candidates) > 1:
        raise SettingsError(
            f"{path}: several outputs could be meant; choose with --output and --kind: {names}"
        )
    return candidates[0]


def _kinds(shape: list[int | None], width: int) -> list[Kind]:
    """Return what an output of that shape could be."""
    if len(shape) == 1 or (len(shape) > 2 and all(size == 1 for size in shape[1:])):
        return ["score"]
    if len(shape) != 2:
        return []
    kinds: list[tuple[Kind, int]] = [("score", 1), ("reconstruction", width)]
    return [kind for kind, columns in kinds if shape[1] in (None, columns)]


def _rewire(
    model: ModelProto, source: ValueInfoProto, sink: ValueInfoProto, kind: Kind, width: int, *, negate: bool
) -> None:
    """Put the contract's input before the foreign one, and its output behind the one that was chosen."""
    from onnx import TensorProto, helper, numpy_helper

    graph = model.graph
    at = sink.name
    before = helper.make_node("Identity", ["input"], [source.name], name="foreign_input")
    if source.type.tensor_type.elem_type != TensorProto.FLOAT:
        to = source.type.tensor_type.elem_type
        before = helper.make_node("Cast", ["input"], [source.name], name="foreign_input", to=to)
    after = []
    if sink.type.tensor_type.elem_type != TensorProto.FLOAT:
        after.append(helper.make_node("Cast", [at], ["in_float32"], name="in_float32", to=TensorProto.FLOAT))
        at = "in_float32"
    if negate:
        after.append(helper.make_node("Neg", [at], ["higher_is_anomalous"], name="higher_is_anomalous"))
        at = "higher_is_anomalous"
    if kind == "score":
        import numpy as np

        graph.initializer.append(numpy_helper.from_array(np.array([-1]), "batch_only"))
        after.append(helper.make_node("Reshape", [at, "batch_only"], ["score"], name="score"))
        result = helper.make_tensor_value_info("score", TensorProto.FLOAT, ["batch"])
    else:
        after.append(helper.make_node("Identity", [at], ["output"], name="output"))
        result = helper.make_tensor_value_info("output", TensorProto.FLOAT, ["batch", width])

    nodes = _needed([before, *graph.node, *after], result.name)
    batch = (_shape(source) or [None])[0] or "batch"
    constants = {name for node in nodes for name in _reads(node)}
    kept = [tensor for tensor in graph.initializer if tensor.name in constants]
    entrance = helper.make_tensor_value_info("input", TensorProto.FLOAT, [batch, width])
    rewired = helper.make_graph(nodes, graph.name, [entrance], [result], kept)
    model.graph.CopyFrom(rewired)


def _needed(nodes: list[NodeProto], output: str) -> list[NodeProto]:
    """Return the nodes that `output` depends on; nodes come in topological order."""
    wanted = {output}
    kept = []
    for node in reversed(nodes):
        if wanted.intersection(node.output):
            kept.append(node)
            wanted.update(_reads(node))
    return kept[::-1]


def _reads(node: NodeProto) -> set[str]:
    """Names that a node reads, its inner graphs included."""
    names = set(node.input)
    for graph in _inner_graphs(node):
        names.update(value.name for value in graph.output)
        for inner in graph.node:
            names |= _reads(inner)
    return names


def _shape(value: ValueInfoProto) -> list[int | None]:
    """Sizes, None where they are decided at run time; empty where the file has no shape."""
    dims = value.type.tensor_type.shape.dim
    return [dim.dim_value if dim.HasField("dim_value") and dim.dim_value > 0 else None for dim in dims]


def _type_name(value: ValueInfoProto) -> str:
    from onnx import TensorProto

    if not value.type.HasField("tensor_type"):
        return "not a tensor"
    return TensorProto.DataType.Name(value.type.tensor_type.elem_type)


def _text(shape: list[int | None]) -> str:
    return "[" + ", ".join("batch" if size is None else str(size) for size in shape) + "]"
