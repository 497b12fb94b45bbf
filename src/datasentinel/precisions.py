"""The names of the precisions a model can be exported in. Imports nothing, so that the command line may."""

from __future__ import annotations

PRECISIONS: tuple[str, ...] = ("fp32", "fp16", "int8")
