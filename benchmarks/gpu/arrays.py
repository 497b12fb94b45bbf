"""Memory of the device and page-locked memory, from whichever library is there."""

from __future__ import annotations

import ctypes
import importlib
from typing import Any, Protocol

import numpy as np

from datasentinel import pinned_empty


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

    def stream(self) -> int:
        """The stream on which `fill` and `to_host` work."""

    def synchronize(self) -> None:
        """Wait for the device."""

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

    def stream(self) -> int:
        return self._torch.cuda.current_stream().cuda_stream

    def synchronize(self) -> None:
        self._torch.cuda.synchronize()

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

    def stream(self) -> int:
        return self._cupy.cuda.get_current_stream().ptr

    def synchronize(self) -> None:
        self._cupy.cuda.runtime.deviceSynchronize()

    def check_health(self) -> None:
        answer = float(self._cupy.ones(8, np.float32).sum())
        if answer != 8.0:
            raise RuntimeError(f"the device adds 8 ones to {answer}")


class _DriverArray:
    """Memory of the device, given back with the object."""

    def __init__(self, driver: DriverArrays, shape: tuple[int, ...]) -> None:
        self._driver = driver
        self.nbytes = 4 * int(np.prod(shape))
        address = ctypes.c_uint64()
        driver.call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(max(self.nbytes, 1)))
        self.address = address.value
        self.__cuda_array_interface__ = {
            "shape": shape,
            "typestr": "<f4",
            "data": (self.address, False),
            "version": 3,
        }

    def __del__(self) -> None:
        if hasattr(self, "address"):
            self._driver.library.cuMemFree_v2(ctypes.c_uint64(self.address))


class DriverArrays:
    """The driver itself, where neither library is installed."""

    _STREAM = 1  # The legacy default stream.

    def __init__(self) -> None:
        self.library = ctypes.CDLL("libcuda.so.1")
        context = ctypes.c_void_p()
        self.call("cuInit", 0)
        self.call("cuDevicePrimaryCtxRetain", ctypes.byref(context), 0)
        self.call("cuCtxSetCurrent", context)

    def call(self, function: str, *arguments: Any) -> None:
        code = self.library[function](*arguments)
        if code != 0:
            raise RuntimeError(f"{function} says {code}")

    def empty(self, shape: tuple[int, ...]) -> _DriverArray:
        return _DriverArray(self, shape)

    def fill(self, target: _DriverArray, values: np.ndarray) -> None:
        there, here = ctypes.c_uint64(target.address), ctypes.c_void_p(values.ctypes.data)
        self._copy("cuMemcpyHtoDAsync_v2", there, here, values.nbytes)

    def to_host(self, source: _DriverArray) -> np.ndarray:
        values = np.empty(source.__cuda_array_interface__["shape"], np.float32)
        here, there = ctypes.c_void_p(values.ctypes.data), ctypes.c_uint64(source.address)
        self._copy("cuMemcpyDtoHAsync_v2", here, there, values.nbytes)
        return values

    def _copy(self, function: str, target: Any, source: Any, size: int) -> None:
        self.call(function, target, source, ctypes.c_size_t(size), ctypes.c_void_p(self._STREAM))
        self.synchronize()

    def pinned(self, shape: tuple[int, ...]) -> np.ndarray:
        return pinned_empty(shape)

    def stream(self) -> int:
        return self._STREAM

    def synchronize(self) -> None:
        self.call("cuCtxSynchronize")

    def check_health(self) -> None:
        ones = self.empty((8,))
        self.fill(ones, np.ones(8, np.float32))
        if self.to_host(ones).sum() != 8.0:
            raise RuntimeError("the device does not give back what it was given")


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

    def stream(self) -> int:
        return 0

    def synchronize(self) -> None:
        pass

    def check_health(self) -> None:
        pass


def find_arrays(device: str) -> Arrays:
    """Torch's arrays, CuPy's or the driver's; NumPy's where the device is the CPU."""
    if device == "cpu":
        return NumpyArrays()
    problems = []
    for make in (lambda: TorchArrays(device), CupyArrays, DriverArrays):
        try:
            arrays = make()
            arrays.check_health()
        except Exception as error:
            problems.append(f"{type(error).__name__}: {error}")
        else:
            return arrays
    raise RuntimeError("nothing reaches the device: " + "; ".join(problems))
