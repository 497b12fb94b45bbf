"""What layers in a lower precision must answer: their factors rounded, all else exact."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.networks import Network


def rounded_tf32(values: np.ndarray) -> np.ndarray:
    """Ten bits of the fraction, ties away from zero."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits + np.uint32(0x1000)) & np.uint32(0xFFFFE000)).view(np.float32)


def rounded_bf16(values: np.ndarray) -> np.ndarray:
    """Seven bits of the fraction, ties to even."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)


def rounded_fp16(values: np.ndarray) -> np.ndarray:
    """What NumPy makes of it; beyond the largest number, that number."""
    return np.clip(values, -65504, 65504).astype(np.float16).astype(np.float32)


ROUNDINGS = {"tf32": rounded_tf32, "bf16": rounded_bf16, "fp16": rounded_fp16}


def reference_in(
    rounded: Callable[[np.ndarray], np.ndarray], network: Network, rows: np.ndarray
) -> np.ndarray:
    """Scores when weights and inputs of the layers are rounded and all else is exact."""
    z = (rows.astype(np.float64) - network.mean) / network.scale
    h = z
    for index, (weight, bias) in enumerate(zip(network.weights, network.biases, strict=True)):
        h = rounded(h.astype(np.float32)).astype(np.float64) @ rounded(weight).astype(np.float64) + bias
        if index + 1 < len(network.weights):
            h = np.maximum(h, 0)
    return ((z - h) ** 2).mean(axis=1)
