"""A model on the fused backend, without an artifact around it."""

from __future__ import annotations

from datasentinel import _native  # noqa: TID251 - DATASENTINEL_ISA is read at each load


def load(model: bytes, *, dim: int, num_threads: int = 1, precision: str = "float32") -> _native.Scorer:
    return _native.Registry({}).load(
        model,
        name="model.onnx",
        backend="fused",
        threshold=1.0,
        feature_names=[f"f{i}" for i in range(dim)],
        num_threads=num_threads,
        precision=precision,
    )
