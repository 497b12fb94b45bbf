"""Comparison of an exported graph with the network it came from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch  # noqa: TID251

from datasentinel.errors import ArtifactError

if TYPE_CHECKING:
    from datasentinel.training.network import ScoringModule
    from datasentinel.types import Float32Array

# Two float32 computations of one network differ in the last digits only; more is a broken export.
TOLERANCE = 1e-4


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


def verify_graph(onnx: bytes, module: ScoringModule, rows: Float32Array) -> Verification:
    """Score `rows` [N, D] with the graph and with torch.

    Raises
    ------
    ArtifactError
        They differ by more than float32 rounding explains.
    """
    runtime, scores, outputs = _run(onnx, rows)
    with torch.no_grad():
        expected, expected_outputs = (tensor.numpy() for tensor in module(torch.from_numpy(rows)))
    difference = np.abs(scores.astype(np.float64) - expected)
    # A row that is reconstructed almost perfectly has a score made of rounding alone: relate to the typical
    # score as well as to its own.
    scale = np.maximum(np.abs(expected), float(np.median(np.abs(expected))))
    verification = Verification(
        runtime=runtime,
        rows=len(rows),
        max_absolute=float(difference.max()),
        max_relative=float((difference / np.maximum(scale, np.finfo(np.float32).tiny)).max()),
    )
    scale_of_columns = module.get_buffer("scale").numpy()
    output_error = float(
        (np.abs(outputs - expected_outputs) / (np.abs(expected_outputs) + scale_of_columns)).max()
    )
    if not (verification.max_relative <= TOLERANCE and output_error <= TOLERANCE):
        raise ArtifactError(
            f"the exported graph disagrees with the trained network: scores by a factor of up to "
            f"{verification.max_relative:.2g}, reconstructions by {output_error:.2g} ({runtime})"
        )
    return verification


def _run(onnx: bytes, rows: Float32Array) -> tuple[str, Float32Array, Float32Array]:
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
    scores, outputs = session.run(["score", "output"], {"input": rows})
    return runtime, scores, outputs
