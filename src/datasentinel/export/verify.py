"""Comparison of an exported graph with the network it came from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from datasentinel.errors import ArtifactError
from datasentinel.training.context import ContextModel
from datasentinel.training.seasonal import without_season

if TYPE_CHECKING:
    from datasentinel.training.fitting import Model
    from datasentinel.training.seasonal import SeasonalModel
    from datasentinel.types import Float32Array

# Two float32 computations of one network differ in the last digits only; more is a broken export.
TOLERANCE = 1e-4
# Contributions rank features: coarser is good enough, and finer is lost where a share is of small residuals.
CONTRIBUTION_TOLERANCE = 1e-3
# Where float32 itself is far from float64, two float32 computations may be this many times as far apart.
_ROUNDING_ROOM = 10.0


@dataclass(frozen=True)
class Verification:
    """How far the graph's scores are from torch's.

    Attributes
    ----------
    runtime : str
        What ran the graph.
    rows : int
        How many rows were compared.
    max_absolute, max_relative : float
        Greatest difference of a score, and greatest difference divided by the score.
    """

    runtime: str
    rows: int
    max_absolute: float
    max_relative: float


def verify_graph(onnx: bytes, model: Model | SeasonalModel, rows: Float32Array) -> Verification:
    """Score and explain `rows` [N, D] with the graph and with the model that it was made of.

    Raises
    ------
    ArtifactError
        They differ by more than float32 rounding explains.
    """
    inner = without_season(model)
    state_size = inner.memory.size if isinstance(inner, ContextModel) else 0
    runtime, scores, outputs, contributions = _run(onnx, rows, state_size)
    expected, expected_outputs = model.evaluate(rows)
    difference = np.abs(scores.astype(np.float64) - expected)
    verification = Verification(
        runtime=runtime,
        rows=len(rows),
        max_absolute=float(difference.max()),
        max_relative=float((difference / model.tolerable(expected)).max()),
    )
    scale_of_columns = model.scaling.scale
    output_error = float(
        (np.abs(outputs - expected_outputs) / (np.abs(expected_outputs) + scale_of_columns)).max()
    )
    limit = max(TOLERANCE, _ROUNDING_ROOM * model.rounding(rows))
    contribution_error, contribution_limit = _compare_contributions(contributions, model, rows)
    if not (
        verification.max_relative <= limit
        and output_error <= TOLERANCE
        and contribution_error <= contribution_limit
    ):
        raise ArtifactError(
            f"the exported graph disagrees with the trained detector: scores by a factor of up to "
            f"{verification.max_relative:.2g}, reconstructions by {output_error:.2g}, contributions by "
            f"{contribution_error:.2g} ({runtime})"
        )
    return verification


def _compare_contributions(
    contributions: Float32Array, model: Model | SeasonalModel, rows: Float32Array
) -> tuple[float, float]:
    """Return the greatest difference, as a share of a row's sum, and what rounding explains of it."""
    expected = model.contributions(rows)
    wide = model.contributions(rows.astype(np.float64))
    sums = wide.sum(axis=1, keepdims=True, dtype=np.float64)
    # A row that is reconstructed almost perfectly has contributions made of rounding alone.
    unit = np.maximum(sums, max(float(np.median(sums)), float(np.finfo(np.float32).tiny)))
    difference, rounding = (
        float((np.abs(values.astype(np.float64) - wide) / unit).max()) for values in (contributions, expected)
    )
    return difference, max(CONTRIBUTION_TOLERANCE, _ROUNDING_ROOM * rounding)


def _run(
    onnx: bytes, rows: Float32Array, state_size: int
) -> tuple[str, Float32Array, Float32Array, Float32Array]:
    # ONNX Runtime is not part of the `train` extra, since one of its two packages has to be chosen.
    session: Any
    try:
        import onnxruntime
    except ImportError:
        import onnx as onnx_package
        from onnx.reference import ReferenceEvaluator

        runtime = f"onnx {onnx_package.__version__} reference evaluator"
        session = ReferenceEvaluator(onnx_package.load_model_from_string(onnx))
    else:
        runtime = f"onnxruntime {onnxruntime.__version__}"
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])
    wanted = ["score", "output", "contributions"]
    if not state_size:
        scores, outputs, contributions = session.run(wanted, {"input": rows})
        return runtime, scores, outputs, contributions
    # A recording, from a new stream's state on.
    state = np.zeros((1, state_size), np.float32)
    results = []
    for row in rows:
        *result, state = session.run([*wanted, "state_next"], {"input": row[np.newaxis], "state": state})
        results.append(result)
    scores, outputs, contributions = (np.concatenate(values) for values in zip(*results, strict=True))
    return runtime, scores, outputs, contributions
