"""What the Open Inference Protocol tells about server and models, as plain values.

The protocol's JSON and its protobuf messages have the same names, so one dictionary makes both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import datasentinel

if TYPE_CHECKING:
    from datasentinel.serving.models import ServedModels
    from datasentinel.serving.served_model import ServedModel

PLATFORM = "onnx"
EXTENSIONS = (
    "binary_tensor_data",
    "model_configuration",
    "model_repository",
    "sequence",
    "statistics",
)

_DATATYPES = {"anomaly": "BOOL", "warming": "BOOL"}  # All others are FP32.


def _width(output: str, model: ServedModel) -> list[int]:
    return [model.detector.input_dim] if output in ("output", "contributions") else []


def server_metadata() -> dict[str, Any]:
    """Describe the server: ServerMetadata."""
    return {"name": "datasentinel", "version": datasentinel.__version__, "extensions": list(EXTENSIONS)}


def model_metadata(models: ServedModels, model: ServedModel) -> dict[str, Any]:
    """Describe a model's tensors: ModelMetadata."""
    return {
        "name": model.name,
        "versions": models.versions(model.name),
        "platform": PLATFORM,
        "inputs": [{"name": "input", "datatype": "FP32", "shape": [-1, model.detector.input_dim]}],
        "outputs": [
            {
                "name": output,
                "datatype": _DATATYPES.get(output, "FP32"),
                "shape": [-1, *_width(output, model)],
            }
            for output in model.outputs
        ],
    }


def model_config(model: ServedModel, max_rows: int) -> dict[str, Any]:
    """Describe a model's configuration as far as clients and load generators ask: ModelConfig."""
    detector = model.detector
    return {
        "name": model.name,
        "platform": PLATFORM,
        "backend": detector.backend,
        "max_batch_size": max_rows,
        "input": [{"name": "input", "data_type": "TYPE_FP32", "dims": [detector.input_dim]}],
        "output": [
            {
                "name": output,
                "data_type": f"TYPE_{_DATATYPES.get(output, 'FP32')}",
                "dims": _width(output, model) or [1],
            }
            for output in model.outputs
        ],
        **({"sequence_batching": {}} if model.streams is not None else {}),
        "parameters": {"threshold": {"string_value": repr(detector.threshold)}},
        "model_transaction_policy": {"decoupled": False},
    }


def model_statistics(models: ServedModels, model: ServedModel) -> dict[str, Any]:
    """Return what a model has done since it is served: ModelStatistics."""
    requests = models.table.statistics(model.name, model.version) or {}
    counts = model.counts
    count, total_ns, queue_ns = (requests.get(key, 0) for key in ("successes", "success_ns", "queue_ns"))
    return {
        "name": model.name,
        "version": model.version,
        "last_inference": requests.get("last_ms", 0),
        "inference_count": counts["rows"],
        "execution_count": counts["batches"],
        "inference_stats": {
            "success": {"count": count, "ns": total_ns},
            "fail": {"count": requests.get("failures", 0), "ns": requests.get("failure_ns", 0)},
            "queue": {"count": count, "ns": queue_ns},
            # The counters move one after the other while requests are answered.
            "compute_infer": {"count": count, "ns": max(0, total_ns - queue_ns)},
        },
    }
