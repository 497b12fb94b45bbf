"""Memory of the device and page-locked memory, from whichever library is there."""

from __future__ import annotations

import importlib
from typing import Any, Protocol

import numpy as np


class Arrays(Protocol):
    """Float32 arrays where a backend of ours takes them."""

    def empty(self, shape: tuple[int, ...]) -> Any:
        """New memory on the device."""

    def fill(self, target: Any, values: np.ndarray) -> None:
        """Copy to the device; complete on return."""

    def to_host(self, source: Any) -> np.ndarray:
        """Copy from the device."""

    def pinned(self, shape: tuple[int, ...]) -> np.ndarray:
        """New page-locked memory on the host."""

    def check_health(self) -> None:
        """Raise when the device answers no more, as after a kernel's bad access."""


class TorchArrays:
    def __init__(self, device: str) -> None:
        import torch  # noqa: TID251

        self._torch = torch
        self._device = device

    def empty(self, shape: tuple[int, ...]) -> Any:
        return self._torch.empty(shape, dtype=self._torch.float32, device=self._device)

    def fill(self, target: Any, values: np.ndarray) -> None:
        target.copy_(self._torch.from_numpy(values))
        if target.is_cuda:
            self._torch.cuda.synchronize()

    def to_host(self, source: Any) -> np.ndarray:
        return source.cpu().numpy()

    def pinned(self, shape: tuple[int, ...]) -> np.ndarray:
        locked = self._device == "cuda"
        return self._torch.empty(shape, dtype=self._torch.float32, pin_memory=locked).numpy()

    def check_health(self) -> None:
        answer = self._torch.ones(8, device=self._device).sum().item()
        if answer != 8.0:
            raise RuntimeError(f"the device adds 8 ones to {answer}")


class CupyArrays:
    def __init__(self) -> None:
        self._cupy = importlib.import_module("cupy")

    def empty(self, shape: tuple[int, ...]) -> Any:
        return self._cupy.empty(shape, np.float32)

    def fill(self, target: Any, values: np.ndarray) -> None:
        target.set(values)
        self._cupy.cuda.runtime.deviceSynchronize()

    def to_host(self, source: Any) -> np.ndarray:
        return self._cupy.asnumpy(source)

    def pinned(self, shape: tuple[int, ...]) -> np.ndarray:
        count = int(np.prod(shape))
        memory = self._cupy.cuda.alloc_pinned_memory(4 * count)
        return np.frombuffer(memory, np.float32, count).reshape(shape)

    def check_health(self) -> None:
        answer = float(self._cupy.ones(8, np.float32).sum())
        if answer != 8.0:
            raise RuntimeError(f"the device adds 8 ones to {answer}")


class NumpyArrays:
    """For a rehearsal without a GPU: host memory in every part."""

    def empty(self, shape: tuple[int, ...]) -> np.ndarray:
        return np.empty(shape, np.float32)

    def fill(self, target: np.ndarray, values: np.ndarray) -> None:
        target[...] = values

    def to_host(self, source: np.ndarray) -> np.ndarray:
        return source

    def pinned(self, shape: tuple[int, ...]) -> np.ndarray:
        return np.empty(shape, np.float32)

    def check_health(self) -> None:
        pass


def find_arrays(device: str) -> Arrays:
    """Torch's arrays, or CuPy's; NumPy's where the device is the CPU."""
    if device == "cpu":
        return NumpyArrays()
    problems = []
    for make in (lambda: TorchArrays(device), CupyArrays):
        try:
            arrays = make()
            arrays.check_health()
        except Exception as error:
            problems.append(f"{type(error).__name__}: {error}")
        else:
            return arrays
    raise RuntimeError("neither torch nor CuPy reaches the device: " + "; ".join(problems))
