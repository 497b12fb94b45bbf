"""What is measured: a model, what it must answer in float64, and how much arithmetic a row takes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from datasentinel.backend import inspect_model, load_scorer
from datasentinel.errors import BackendUnavailableError, DataSentinelError, MissingDependencyError

if TYPE_CHECKING:
    from collections.abc import Callable

    import onnx

    from datasentinel.artifact import Artifact
    from datasentinel.types import Float32Array, Float64Array

# The tolerance within which `auto` accepts a backend's scores.
_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Subject:
    """A model to measure.

    Attributes
    ----------
    name : str
        What tables and charts call it.
    artifact : Artifact
        The model.
    multiply_adds_per_row : int or None
        In its dense layers; None when unknown, and then there is no share of peak.
    reference : callable
        Scores [N] of float32 rows [N, D], float64.
    """

    name: str
    artifact: Artifact
    multiply_adds_per_row: int | None
    reference: Callable[[Float32Array], Float64Array]

    @property
    def input_dim(self) -> int:
        """Number of values in a row."""
        return self.artifact.config.input_dim

    @property
    def sha256(self) -> str:
        """Digest of the ONNX file."""
        return hashlib.sha256(self.artifact.onnx).hexdigest()

    def rows(self, count: int, seed: int = 0) -> Float32Array:
        """Draw standard normal rows, shape [count, D]."""
        return np.random.default_rng(seed).normal(size=(count, self.input_dim)).astype(np.float32)


def subject_of(artifact: Artifact) -> Subject:
    """Make a subject of any artifact.

    The arithmetic is counted by the `fused` backend when it understands the model; trees have none. The
    reference is the ONNX project's own evaluator on the model with its constants in float64, or ONNX Runtime
    where the model has operators of other domains than ONNX's own, such as trees.

    Raises
    ------
    MissingDependencyError
        The `onnx` package, or for operators of other domains `onnxruntime`, is not installed.
    """
    multiply_adds = None
    try:
        facts = load_scorer(artifact, backend="fused").facts
        multiply_adds = int(facts["multiply-adds per row"]) or None
    except DataSentinelError:
        pass
    name = artifact.config.name or artifact.directory.resolve().name
    return Subject(name, artifact, multiply_adds, _reference_of(artifact))


def _reference_of(artifact: Artifact) -> Callable[[Float32Array], Float64Array]:
    foreign = [o for o in inspect_model(artifact.onnx, name=str(artifact.directory)).operators if ":" in o]
    if not foreign:
        return float64_reference(artifact.onnx)
    try:
        runtime = load_scorer(artifact, backend="onnxruntime")
    except BackendUnavailableError as error:
        raise MissingDependencyError(
            f"checking the outputs of {', '.join(foreign)} needs ONNX Runtime: {error}"
        ) from error
    return lambda rows: runtime.score(rows).astype(np.float64)


def float64_reference(onnx_bytes: bytes) -> Callable[[Float32Array], Float64Array]:
    """Make a function that scores float32 rows with an ONNX model in float64.

    A model without the output `score` is scored by its mean squared reconstruction error.

    Raises
    ------
    MissingDependencyError
        The `onnx` package is not installed.
    """
    try:
        import onnx
        from onnx.reference import ReferenceEvaluator
    except ImportError as error:
        raise MissingDependencyError(
            "checking the outputs needs the onnx package; run `pip install 'datasentinel[bench]'`"
        ) from error
    evaluator = ReferenceEvaluator(_in_float64(onnx.load_from_string(onnx_bytes)))
    input_name = evaluator.input_names[0]
    has_score = "score" in evaluator.output_names

    def reference(rows: Float32Array) -> Float64Array:
        wide = rows.astype(np.float64)
        wanted = ["score"] if has_score else [evaluator.output_names[0]]
        (value,) = evaluator.run(wanted, {input_name: wide})
        result = np.asarray(value, dtype=np.float64)
        return result.reshape(-1) if has_score else ((wide - result) ** 2).mean(axis=1)

    return reference


def _in_float64(model: onnx.ModelProto) -> onnx.ModelProto:
    """Turn every float32 constant and cast of an ONNX model into a float64 one."""
    from onnx import TensorProto, numpy_helper

    def widen(tensor: onnx.TensorProto) -> None:
        if tensor.data_type == TensorProto.FLOAT:
            wide = numpy_helper.to_array(tensor).astype(np.float64)
            tensor.CopyFrom(numpy_helper.from_array(wide, tensor.name))

    for tensor in model.graph.initializer:
        widen(tensor)
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                widen(attribute.t)
            elif node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
                attribute.i = TensorProto.DOUBLE
    return model


def disagreement(scores: Float32Array, expected: Float64Array) -> str:
    """Return where scores differ from the expected ones by more than rounding; empty when they agree.

    Scores near zero are compared on the scale of the others, as `auto` does.
    """
    if scores.shape != expected.shape:
        return f"gives scores of shape {scores.shape} instead of {expected.shape}"
    allowed = _TOLERANCE * (np.abs(expected) + 0.01 * np.abs(expected).max())
    wrong = np.flatnonzero(~(np.abs(scores - expected) <= allowed))
    if wrong.size == 0:
        return ""
    row = int(wrong[0])
    return (
        f"wrong scores: {wrong.size} of {len(expected)} rows differ, the first is row {row}: "
        f"{float(scores[row])!r} instead of {float(expected[row])!r}"
    )
