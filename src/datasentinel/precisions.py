"""The names of precisions. Imports nothing, so that the command line may."""

from __future__ import annotations

# What a model can be exported in.
PRECISIONS: tuple[str, ...] = ("fp32", "fp16", "int8")
# What a backend may be asked to multiply float32 layers in.
COMPUTE_PRECISIONS: tuple[str, ...] = ("float32", "tf32", "bf16", "fp16")
