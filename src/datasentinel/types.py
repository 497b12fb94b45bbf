"""Plain types shared by all modules."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

Float32Array: TypeAlias = npt.NDArray[np.float32]
Float64Array: TypeAlias = npt.NDArray[np.float64]
# float32 or float64, as what it is computed from.
FloatArray: TypeAlias = npt.NDArray[Any]
Int64Array: TypeAlias = npt.NDArray[np.int64]
BoolArray: TypeAlias = npt.NDArray[np.bool_]

BackendName: TypeAlias = Literal[
    "auto", "onnxruntime", "tensorrt", "fused", "fused-cuda", "onnxruntime-cuda", "onnxruntime-tensorrt"
]
BACKEND_NAMES: tuple[BackendName, ...] = (
    "auto",
    "onnxruntime",
    "tensorrt",
    "fused",
    "fused-cuda",
    "onnxruntime-cuda",
    "onnxruntime-tensorrt",
)

# What `EngineOptions.io_binding` may be.
IO_BINDINGS = ("auto", "off", "on", "cuda-graphs")
